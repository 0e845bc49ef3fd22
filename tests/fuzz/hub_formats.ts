// The Hub's answers as formats: those to a download, to a look by ranges, and to a push.
import { CompressoError } from "../../lib/core/errors.ts";
import { readSpec } from "../../lib/formats/open.ts";
import { openSafetensors } from "../../lib/formats/safetensors/read.ts";
import { fetchFromHub } from "../../lib/hub/fetch.ts";
import { HUB_VARIABLES } from "../../lib/hub/settings.ts";
import { viewHub } from "../../lib/hub/view.ts";
import { pushToHub } from "../../lib/local/push_model.ts";
import { sha } from "../hub/fake_hub.ts";
import { answer, answerMutant } from "./answers.ts";
import { type Case, type Files, fixture, type Format, onDisk, utf8 } from "./format.ts";
import { RawHub } from "./raw_hub.ts";

const COMMIT = "c".repeat(40), TOKEN = "hf_fuzz_token";
/** Bytes of the range that a look at weights asks for first. */
const RANGE = 1 << 16;
/** The goal for answers of a hostile Hub. */
const MOST_MIB = 600;

let hub: RawHub | null = null, count = 0;

/** The server of this process, to which the variables of the Hub lead. */
function hubOf(): RawHub {
  if (hub) return hub;
  hub = new RawHub();
  for (const name of HUB_VARIABLES) if (name.startsWith("HF_")) Deno.env.delete(name);
  Deno.env.set("HF_ENDPOINT", hub.url);
  Deno.env.set("HF_TOKEN", TOKEN);
  return hub;
}

/** Fails for a message with the token. */
async function discreet(work: Promise<unknown>): Promise<void> {
  await work.catch((error) => {
    if (error instanceof CompressoError && error.message.includes(TOKEN)) throw new Error("the token is in a message");
    throw error;
  });
}

/** What is asked of a repository, each with a cache of its own. */
async function asked(files: Files, ask: (name: string, home: string) => Promise<unknown>): Promise<void> {
  hubOf().answers = files;
  await onDisk(new Map(), async (home) => {
    Deno.env.set("HF_HOME", home);
    await discreet(ask(`hf:maker/m${++count}`, home));
  });
}

const FILES: Files = new Map(
  ["config.json", "model.safetensors"].map((name) => [name, fixture(`golden/gqa_llama3/model/${name}`)]),
);

/** Answers to all that is asked of a repository: its list comes in two pages, its weights are in another place. */
function repoAnswers(files: Files): Files {
  const { store } = hubOf(),
    list = [...files].map(([path, file]) => {
      const oid = sha("sha1", utf8(`blob ${file.length}\0`), file), size = file.length;
      const lfs = { lfs: { oid: sha("sha256", file), size, pointerSize: 130 } };
      return { type: "file", path, size, oid, ...path === "config.json" ? {} : lfs };
    });
  const next = { link: `<${hubOf().url}/api/models/maker/x/refs/x?cursor=2>; rel="next"` };
  const answers = new Map([
    ["GET revision", answer(200, { sha: COMMIT, id: "maker/m", siblings: [] })],
    ["GET tree", answer(200, list.slice(0, 1), next)],
    ["GET refs", answer(200, list.slice(1))],
  ]);
  for (const [path, file] of files) {
    if (path === "config.json") {
      answers.set(path, answer(200, file));
      continue;
    }
    const linked = { "x-linked-etag": `"${sha("sha256", file)}"`, "x-linked-size": `${file.length}` };
    answers.set(path, answer(302, new Uint8Array(), { ...linked, location: `${store}/${path}` }));
    answers.set(`GET ${path}`, answer(200, file));
    const range = `bytes 0-${RANGE - 1}/${file.length}`;
    answers.set(`GET ${path} bytes=0-${RANGE - 1}`, answer(206, file.slice(0, RANGE), { "content-range": range }));
  }
  return answers;
}

function mutated(answers: Files): Case[] {
  return [{ files: answers, mutators: Object.fromEntries([...answers.keys()].map((key) => [key, answerMutant])) }];
}

const DOWNLOAD: Format = {
  name: "the Hub's answers to a download",
  mib: MOST_MIB,
  cases: () => mutated(repoAnswers(FILES)),
  read: (files) =>
    asked(files, async (name) => {
      const { path } = await fetchFromHub(name);
      for (const [file, bytes] of FILES) {
        const found = await Deno.readFile(`${path}/${file}`).catch(() => bytes);
        if (sha("sha256", found) !== sha("sha256", bytes)) throw new Error(`other bytes of ${file} are taken`);
      }
    }),
};

const LOOK: Format = {
  name: "the Hub's answers to a look",
  mib: MOST_MIB,
  cases: () => mutated(repoAnswers(FILES)),
  read: (files) =>
    asked(files, async (name) => {
      const { files: system, path } = await viewHub(name, { use: "model" });
      await readSpec(system, path);
      await openSafetensors(await system.open(`${path}/model.safetensors`));
    }),
};

const PUSHED = new Map([
  ["config.json", utf8("{}")],
  ["a.safetensors", fixture("golden/peft/qv/adapter_model.safetensors")],
  ["b.safetensors", new Uint8Array(5000)],
]);
const PART = 2000;

/** Answers to a push of {@link PUSHED}: one file goes into git, one is sent whole, one in parts. */
function pushAnswers(): Files {
  const { url, store } = hubOf(), verify = { href: `${url}/verify` };
  const objects = [...PUSHED].slice(1).map(([name, file]) => {
    const parts = Array.from({ length: Math.ceil(file.length / PART) }, (_, at) => [`${at + 1}`, `${store}/part`]);
    const header = { chunk_size: `${PART}`, ...Object.fromEntries(parts) };
    const upload = name === "b.safetensors"
      ? { href: `${url}/whole`, header }
      : { href: `${store}/put`, header: { x: "y" } };
    return { oid: sha("sha256", file), size: file.length, actions: { upload, verify } };
  });
  const files = [...PUSHED.keys()].map((path) => ({
    ...{ path, uploadMode: path === "config.json" ? "regular" : "lfs", shouldIgnore: false, oid: "0" },
  }));
  return new Map([
    ["GET model", answer(404, { error: "none" }, { "x-error-code": "RepoNotFound" })],
    ["POST api/repos/create", answer(200, { url: "x" })],
    ["POST preupload", answer(200, { files })],
    ["POST maker/m.git/info/lfs/objects/batch", answer(200, { transfer: "basic", objects })],
    ["PUT part", answer(200, new Uint8Array(), { etag: '"a"' })],
    ["PUT put", answer(200, new Uint8Array())],
    ["POST whole", answer(200, {})],
    ["POST verify", answer(200, {})],
    ["POST commit", answer(200, { commitOid: COMMIT })],
  ]);
}

const PUSH: Format = {
  name: "the Hub's answers to a push",
  mib: MOST_MIB,
  cases: () => mutated(pushAnswers()),
  read: (files) =>
    onDisk(PUSHED, async (folder) => {
      hubOf().answers = files;
      await discreet(pushToHub(folder, "hf:maker/m"));
    }),
};

export const HUB_FORMATS: readonly Format[] = [DOWNLOAD, LOOK, PUSH];
