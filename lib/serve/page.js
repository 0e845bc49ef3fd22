// The page at `/` of a server: a conversation with its model, over the server's own API. Runs in a browser.
(() => {
  "use strict";
  const ids = ["log", "form", "text", "send", "again", "settings", "key", "system", "temperature", "model"];
  const [log, form, text, send, again, settings, key, system, temperature, heading] = ids.map((id) =>
    document.getElementById(id)
  );
  let name = "", messages = [], work = null, continues = false;

  const show = (kind, content) => {
    const element = document.createElement("p");
    element.className = kind;
    element.textContent = content;
    log.append(element);
    element.scrollIntoView({ block: "end" });
    return element;
  };

  const request = async (path, body) => {
    const response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: {
        "content-type": "application/json",
        ...(key.value === "" ? {} : { authorization: `Bearer ${key.value}` }),
      },
      body: body && JSON.stringify(body),
      signal: work?.signal,
    });
    if (response.ok) return response;
    const error = await response.json().then((answer) => answer.error, () => null);
    if (response.status === 401) settings.open = true;
    throw Object.assign(new Error(error?.message ?? `The server answers with status ${response.status}.`), {
      code: error?.code,
    });
  };

  async function* choices(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "";;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.slice("data: ".length);
        if (data === "[DONE]") return;
        const { error, choices: [choice] = [] } = JSON.parse(data);
        if (error) throw new Error(error.message);
        if (choice) yield choice;
      }
    }
  }

  const load = async () => {
    const { data: [{ id }] } = await (await request("v1/models")).json();
    name = heading.textContent = document.title = id;
  };

  // The answer to what was said grows on the page.
  const answer = async (said, element) => {
    const before = system.value === "" ? [] : [{ role: "system", content: system.value }];
    const fields = continues ? { prompt: said.at(-1).content, max_tokens: 256 } : { messages: [...before, ...said] };
    const response = await request(continues ? "v1/completions" : "v1/chat/completions", {
      model: name,
      stream: true,
      ...(temperature.value === "" ? {} : { temperature: Number(temperature.value) }),
      ...fields,
    });
    for await (const { delta, text: piece, finish_reason: end } of choices(response)) {
      element.textContent += delta?.content ?? piece ?? "";
      element.scrollIntoView({ block: "end" });
      if (end === "length") show("note", "The answer was cut off at the most tokens.");
    }
  };

  const ask = async (question) => {
    const said = messages;
    said.push({ role: "user", content: question });
    show("user", question);
    const element = show("assistant", "");
    work = new AbortController();
    send.textContent = "Stop";
    try {
      if (name === "") await load();
      await answer(said, element).catch(async (error) => {
        if (error.code !== "no_chat_template") throw error;
        continues = true;
        show("note", "This model has no chat template. It continues your text.");
        await answer(said, element);
      });
    } catch (error) {
      if (said === messages) show("note", error.name === "AbortError" ? "Stopped." : error.message);
    }
    const content = element.textContent;
    if (content === "") {
      said.pop();
      element.remove();
    } else said.push({ role: "assistant", content });
    work = null;
    send.textContent = "Send";
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (work) return work.abort();
    const question = text.value;
    if (question.trim() === "") return;
    text.value = "";
    void ask(question);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!work) form.requestSubmit();
  });
  again.addEventListener("click", () => {
    work?.abort();
    messages = [];
    log.replaceChildren();
    text.focus();
  });
  load().catch((error) => show("note", error.message));
})();
