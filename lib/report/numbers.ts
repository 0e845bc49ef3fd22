// Counts and sizes as people read them, on a terminal and in reports. Owns units and digits; refuses to know what is counted.

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
