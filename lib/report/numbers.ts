// Counts, sizes and times as people read them, on a terminal and in reports.

/** Bytes with a binary unit, three digits. */
export function formatBytes(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const step = bytes < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 2 ** (10 * step);
  return `${step === 0 ? value : value.toPrecision(value < 999.5 ? 3 : 4)} ${units[step]}`;
}

/** A count with separators between thousands. */
export function formatCount(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** Seconds as text: 8 s, 2 min 05 s, 3 h 20 min. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const pad = (value: number): string => String(value).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor(whole % 3600 / 60))} min`;
}

/** What stands in place of a number that is not known. */
export const ABSENT = "–";

/** A share in percent. */
export function percent(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(2)} %` : ABSENT;
}

/** A count with separators between thousands. */
export function grouped(count: number): string {
  return Number.isFinite(count) ? formatCount(count) : ABSENT;
}
