// The page's content policy forbids code from text, which zod would try. It is asked before its first schema.
Object.assign(globalThis, { __zod_globalConfig: { jitless: true } });
