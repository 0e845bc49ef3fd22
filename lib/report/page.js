// The script of a report's page: values of charts under the pointer or by arrow keys, and the refreshing of a live page. Runs in a browser;
// the page can be read without it.
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";

  // "0 100 40 700 whole step": two values, their pixels, format, label.
  const axisOf = (text) => {
    const [v0, v1, p0, p1, format, ...label] = text.split(" ");
    const [from, to, first, last] = [v0, v1, p0, p1].map(Number);
    const valueAt = (pixel) => from + (to - from) * (pixel - first) / (last - first);
    const show = (value) =>
      format === "share" ? `${Number((100 * value).toPrecision(3))} %` : String(Number(value.toPrecision(4)));
    return {
      show: (pixel) => show(valueAt(pixel)),
      whole: (pixel) => Math.round(valueAt(pixel)),
      label: label.join(" "),
    };
  };

  const seriesOf = (svg) =>
    [...svg.querySelectorAll("g[data-name]")].map((group) => {
      const path = group.querySelector("path")?.getAttribute("d") ?? "";
      const points = [...path.matchAll(/(-?[\d.]+),(-?[\d.]+)/g)].map((found) => [Number(found[1]), Number(found[2])]);
      for (const dot of group.querySelectorAll("circle")) {
        points.push([Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy"))]);
      }
      return { name: group.dataset.name, points };
    }).filter(({ points }) => points.length > 0);

  const nearest = (points, x) =>
    points.reduce((best, point) => Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);

  const enliven = (plot) => {
    const svg = plot.querySelector("svg[data-x]");
    if (!svg || plot.querySelector("output")) return;
    const x = axisOf(svg.dataset.x), y = axisOf(svg.dataset.y), series = seriesOf(svg);
    if (series.length === 0) return;
    const stops = [...new Set(series.flatMap(({ points }) => points.map(([at]) => at)))].sort((a, b) => a - b);
    const ends = svg.dataset.y.split(" ").slice(2, 4).map(Number);
    const cross = document.createElementNS(SVG, "line"), output = document.createElement("output");
    cross.setAttribute("class", "mark");
    cross.setAttribute("visibility", "hidden");
    svg.append(cross);
    plot.append(output);
    let stop = -1;
    const showAt = (index) => {
      stop = index;
      const at = stops[index];
      for (
        const [name, value] of [["x1", at], ["x2", at], ["y1", ends[0]], ["y2", ends[1]], ["visibility", "visible"]]
      ) {
        cross.setAttribute(name, value);
      }
      const near = series.map(({ name, points }) => ({ name, point: nearest(points, at) })).filter(({ point }) =>
        Math.abs(point[0] - at) < 6
      );
      output.textContent = `${x.label} ${x.whole(at)}: ${
        near.map(({ name, point }) => `${name} ${y.show(point[1])}`).join("; ")
      }`;
    };
    const hide = () => {
      stop = -1;
      cross.setAttribute("visibility", "hidden");
      output.textContent = "";
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      showAt(stops.indexOf(stops.reduce((best, one) => Math.abs(one - at) < Math.abs(best - at) ? one : best)));
    });
    svg.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const last = stops.length - 1, leap = Math.max(1, Math.round(stops.length / 40));
      const next = {
        ArrowRight: Math.min(last, stop + (event.shiftKey ? 1 : leap)),
        ArrowLeft: Math.max(0, (stop < 0 ? last + 1 : stop) - (event.shiftKey ? 1 : leap)),
        Home: 0,
        End: last,
      }[event.key];
      if (event.key === "Escape") hide();
      if (next === undefined) return;
      event.preventDefault();
      showAt(next);
    });
  };
  const enlivenAll = () => {
    for (const plot of document.querySelectorAll(".plot")) enliven(plot);
  };
  enlivenAll();

  const { live } = document.body.dataset;
  if (live === undefined) return;
  const status = document.querySelector("#status");
  // Replaces only what has changed and keeps what the reader has opened, focused or scrolled.
  const replace = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    const main = document.querySelector("main");
    const { activeElement: active } = document;
    const focused = active?.id
      ? `#${CSS.escape(active.id)}`
      : active?.matches("main a")
      ? `a[href="${active.getAttribute("href")}"]`
      : null;
    const opened = [...main.querySelectorAll("details[open]")].map(({ id }) => id);
    const scrolled = [...main.querySelectorAll("[id]")].filter((one) => one.scrollLeft > 0 || one.scrollTop > 0)
      .map((one) => [one.id, one.scrollLeft, one.scrollTop]);
    main.replaceChildren(...fresh.body.childNodes);
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    for (const [id, left, top] of scrolled) document.getElementById(id)?.scrollTo({ left, top, behavior: "instant" });
    if (focused) main.querySelector(focused)?.focus({ preventScroll: true });
    enlivenAll();
  };
  // A reader who is at a value must not lose it.
  const isReading = () =>
    document.activeElement?.matches(".plot") && document.activeElement.querySelector("output")?.textContent;
  let tag = live, missed = 0, held = null;
  const write = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };
  const show = ({ text, etag, state, title, note }) => {
    tag = etag;
    held = null;
    replace(text);
    // A page that was opened before the run began gets its name now.
    if (document.title !== title) document.title = title;
    write(document.querySelector("h1"), title);
    write(document.querySelector("#note"), note);
    write(status, state);
  };
  const end = () => {
    if (held && !isReading()) show(held);
    const last = status.textContent.replace(/ The program has ended.*/, "");
    status.textContent = `${last} The program has ended; this page stays as it is.`;
    if (held) setTimeout(end, 500);
  };
  const poll = async () => {
    try {
      const answer = await fetch("content", { headers: { "if-none-match": held?.etag ?? tag }, cache: "no-store" });
      missed = 0;
      if (answer.status === 200) {
        const said = (name) => decodeURIComponent(answer.headers.get(name) ?? "");
        held = {
          ...{ text: await answer.text(), etag: answer.headers.get("etag") ?? "" },
          ...{ state: said("x-state"), title: said("x-title"), note: said("x-note") },
        };
      }
      if (held && !isReading()) show(held);
    } catch {
      missed++;
    }
    if (missed < 3) return setTimeout(poll, document.hidden ? 10000 : 2000);
    end();
  };
  setTimeout(poll, 2000);
})();
