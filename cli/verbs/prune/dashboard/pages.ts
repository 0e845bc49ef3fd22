// The pages of a run's dashboard: a report of the records so far that refreshes itself.
import { readRun, type ReportRun } from "../../../../lib/report/read_run.ts";
import { headOf, reportContent } from "../../../../lib/report/report.ts";
import { pageHtml } from "../../../../lib/report/page.ts";
import type { MaskSummary } from "../../../../lib/run/mask_summary.ts";
import type { Alarm } from "../../../../lib/run/monitors/alarm.ts";
import { allAlarms } from "../../../../lib/run/monitors/shown_alarms.ts";
import type { StepRecord } from "../../../../lib/run/contract.ts";
import { parseRecords } from "../../../../lib/run/run_json.ts";
import type { OriginFile } from "../../../../lib/slice/export_options.ts";
import { LOCAL_HOSTS } from "../../../../lib/serve/handler.ts";

/** Messages from the run's process to the dashboard. Records are read from the run's folder. */
export type DashboardMessage =
  /** Before the run is started: its name and its inputs. */
  | { readonly kind: "named"; readonly name: string; readonly origin: readonly OriginFile[] }
  | {
    readonly kind: "started";
    /** The run's folder; from now on its records.jsonl is that of this run. */
    readonly folder: string;
    readonly name: string;
    readonly options: Readonly<Record<string, unknown>>;
    readonly adapter: string;
    readonly origin: readonly OriginFile[];
  }
  /** The masks during the run, after a step. */
  | { readonly kind: "masks"; readonly step: number; readonly masks: MaskSummary }
  | { readonly kind: "alarm"; readonly alarm: Alarm }
  /** What the run is doing, as a sentence. */
  | { readonly kind: "state"; readonly text: string }
  /** run.json is written. */
  | { readonly kind: "finished" };

/** Answers the requests to one dashboard. */
export interface DashboardPages {
  /** Receives a message. */
  tell(message: DashboardMessage): void;
  /** Answers a request. */
  answer(request: Request): Promise<Response>;
  /** Milliseconds since the last request; Infinity before the first. */
  readonly idle: number;
  /** Whether a browser has received the end of the run. */
  readonly endWasSeen: boolean;
}

interface MadePage {
  readonly content: string;
  readonly state: string;
  /** Changes whenever the page does. */
  readonly tag: string;
  readonly at: number;
  /** Milliseconds that making the page took. */
  readonly took: number;
  readonly run: ReportRun;
}

/**
 * Limits how often a page is made, however many viewers there are: a least interval, and a multiple of the time that
 * making it took.
 */
const REFRESH_MS = 1500, REFRESH_TIMES = 20;

/** Of a run that is not finished. */
const NOTHING = {
  ...{ folder: null, records: [], summary: null, options: null, origin: [], adapter: null },
  ...{ evaluations: [], unread: [], alarms: [], liveMasks: null },
} as const;

/** Starts with a run in preparation. */
export function createPages({ now = (): number => performance.now() } = {}): DashboardPages {
  let started: Extract<DashboardMessage, { kind: "started" }> | null = null, isFinished = false;
  let state = "Preparing: the model is loaded and the rows are encoded.", liveMasks: ReportRun["liveMasks"] = null;
  let askedAt = -Infinity, endWasSeen = false;
  let made: MadePage | null = null;
  let making: Promise<MadePage> | null = null, isStale = true;
  let tail: RecordTail | null = null, version = 0;
  let named: Pick<ReportRun, "name" | "origin"> = { name: "run", origin: [] };
  const seen: Alarm[] = [];
  // A browser left open must not confuse this run's page with that of another run at the same port.
  const instance = crypto.randomUUID().slice(0, 8);

  const currentRun = async (): Promise<ReportRun> => {
    if (!started) return { ...NOTHING, ...named };
    if (isFinished) return await readRun(started.folder);
    const { name, folder, options, adapter, origin } = started;
    const records = await (tail ??= openTail(`${started.folder}/records.jsonl`)).read();
    // Alarms of steps that a rollback undid are in no record; those before a resumed run came in no message.
    const alarms = allAlarms([records.flatMap((record) => record.alarms), seen]);
    return { ...NOTHING, name, folder, records, options, adapter, origin, alarms, liveMasks };
  };
  const make = async (): Promise<MadePage> => {
    isStale = false;
    const start = now(),
      said = state,
      run = await currentRun(),
      content = reportContent([run], { isLive: !run.summary });
    const isSame = made?.content === content && made.state === said;
    return made = {
      content,
      state: said,
      tag: isSame && made ? made.tag : `"${instance}-${++version}"`,
      at: now(),
      took: now() - start,
      run,
    };
  };
  const current = async (): Promise<MadePage> => {
    if (made && !isStale && now() - made.at < Math.max(REFRESH_MS, REFRESH_TIMES * made.took)) return made;
    // All concurrent requests wait for the same page.
    return await (making ??= make().finally(() => {
      making = null;
    }));
  };

  return {
    tell(message): void {
      isStale = true;
      if (message.kind === "started") [started, tail, isFinished, state] = [message, null, false, "Running."];
      else if (message.kind === "alarm") seen.push(message.alarm);
      else if (message.kind === "named") named = { name: message.name, origin: message.origin };
      else if (message.kind === "masks") liveMasks = { step: message.step, masks: message.masks };
      else if (message.kind === "state") state = message.text;
      else [isFinished, state] = [true, "Finished."];
    },
    async answer(request): Promise<Response> {
      // A Host header may be anything, and so may the URL that Deno makes from it.
      const address = URL.parse(request.url);
      if (!address) return plain(400, "the address is no URL");
      const { pathname } = address;
      // A page of another site that points its name at this machine must not read the run (DNS rebinding).
      if (!LOCAL_HOSTS.test(request.headers.get("host") ?? "")) {
        return plain(403, "this server is for this machine alone");
      }
      if (request.method !== "GET" && request.method !== "HEAD") return plain(405, "only GET");
      if (pathname !== "/" && pathname !== "/content") return plain(404, "no such page");
      askedAt = now();
      let page: MadePage;
      try {
        page = await current();
      } catch (error) {
        return plain(500, `cannot show the run: ${error instanceof Error ? error.message : String(error)}`);
      }
      const { content, tag, run, state: said } = page;
      if (isFinished && run.summary) endWasSeen = true;
      const head = headOf([run], {});
      const headers = {
        ...HEADERS,
        "etag": tag,
        "x-state": encodeURIComponent(said),
        "x-title": encodeURIComponent(head.title),
        "x-note": encodeURIComponent(head.note),
        "content-type": "text/html; charset=utf-8",
      };
      if (pathname === "/content") {
        if (request.headers.get("if-none-match") === tag) return new Response(null, { status: 304, headers });
        return new Response(content, { headers });
      }
      return new Response(pageHtml({ ...head, content, live: { tag, state: said } }), { headers });
    },
    get idle(): number {
      return now() - askedAt;
    },
    get endWasSeen(): boolean {
      return endWasSeen;
    },
  };
}

const HEADERS = {
  "cache-control": "no-store",
  "content-security-policy": "frame-ancestors 'none'",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
} as const;

function plain(status: number, text: string): Response {
  return new Response(`${text}\n`, { status, headers: { ...HEADERS, "content-type": "text/plain; charset=utf-8" } });
}

interface RecordTail {
  /** All complete records so far. */
  read(): Promise<readonly StepRecord[]>;
}

/**
 * Reads the lines appended to a file of records since the last call. A rollback shortens the file and continues it. If
 * the last line that was read is no longer in its place, the whole file is read again.
 */
function openTail(path: string): RecordTail {
  let records: readonly StepRecord[] = [], last = new Uint8Array(), end = 0;
  return {
    async read(): Promise<readonly StepRecord[]> {
      const file = await Deno.open(path).catch(() => null);
      if (!file) return records;
      using _open = file;
      let added = await bytesFrom(file, end - last.length);
      if (last.every((byte, at) => byte === added[at])) added = added.subarray(last.length);
      else {
        [records, last, end] = [[], new Uint8Array(), 0];
        added = await bytesFrom(file, 0);
      }
      // An incomplete line is left for the next call.
      const whole = added.subarray(0, added.lastIndexOf(10) + 1);
      if (whole.length === 0) return records;
      const parsed = parseRecords(new TextDecoder().decode(whole), { path, isFinished: false });
      last = whole.slice(whole.lastIndexOf(10, whole.length - 2) + 1);
      end += whole.length;
      return records = [...records, ...parsed];
    },
  };
}

async function bytesFrom(file: Deno.FsFile, offset: number): Promise<Uint8Array> {
  const { size } = await file.stat(), bytes = new Uint8Array(Math.max(0, size - offset));
  await file.seek(offset, Deno.SeekMode.Start);
  let filled = 0;
  while (filled < bytes.length) {
    const count = await file.read(bytes.subarray(filled));
    if (count === null) break;
    filled += count;
  }
  return bytes.subarray(0, filled);
}
