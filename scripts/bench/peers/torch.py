"""Times the cases of `deno task bench` in PyTorch: matrix products and one training step of a masked LLaMA decoder.

usage: python3 torch.py < cases.json; one JSON line a result on standard output. Owns the PyTorch side; asserts that its own
results are right before it times them; refuses models on disk (weights are random).
"""
import json, math, os, sys, time
from types import SimpleNamespace as Namespace

# This file is called like the package, and Python puts its folder first.
sys.path = [path for path in sys.path if os.path.realpath(path or ".") != os.path.dirname(os.path.realpath(__file__))]
# Threads that wait must sleep, else CPU seconds count their spinning: three times too much beside other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    print(json.dumps({"peer": "torch", "missing": str(error)}))
    sys.exit(0)

# Work of one timed repeat, so that short products are repeated within it.
RUN_FLOPS, MAX_COUNT = 2e9, 256
GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3  # hard concrete, Louizos et al. 2018
TINY = {"hidden": 64, "layers": 2, "heads": 4, "kvHeads": 2, "headDim": 16, "ffn": 128, "vocab": 256, "tied": True}


def emit(**line):
    print(json.dumps({"peer": "torch", "version": torch.__version__, **line}), flush=True)


def measure(run, repeats, device, count=1):
    """Wall and process CPU seconds of `run` in each repeat, after one run to warm up; `run` does its work `count` times."""
    def settle():
        if device.type == "cuda": torch.cuda.synchronize(device)
    run(); settle()
    wall, cpu = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        run(); settle()
        cpu.append((time.process_time() - used) / count)
        wall.append((time.perf_counter() - start) / count)
    return {"seconds": wall, "cpuSeconds": cpu}


def product(case, device):
    """y = x·Wᵀ or dx = dy·W in f32, W stored [out, in]. Returns the function and the operands (a, b) with y = a·b."""
    generator = torch.Generator().manual_seed(1)
    tokens, out, inputs = case["tokens"], case["out"], case["in"]
    forward = case["direction"] == "forward"
    a = (torch.rand(tokens, inputs if forward else out, generator=generator) * 2 - 1).to(device)
    weight = (torch.rand(out, inputs, generator=generator) * 2 - 1).to(device)
    b = weight.T if forward else weight
    with torch.no_grad():
        y = a @ b
    rows = [list(map(float, a[i].tolist())) for i in (0, tokens // 2, tokens - 1)]
    for row, i in zip(rows, (0, tokens // 2, tokens - 1)):
        for j in (0, b.shape[1] // 2, b.shape[1] - 1):
            column = b[:, j].tolist()
            exact = math.fsum(p * q for p, q in zip(row, column))
            # Rounding of a sum of k products below 1: at most k·ε/2 of Σ|a·b|, here far less.
            bound = 2.0 ** -23 * math.sqrt(len(row)) * math.fsum(abs(p * q) for p, q in zip(row, column))
            if not abs(float(y[i, j]) - exact) <= bound:
                raise AssertionError(f"product[{i}, {j}] is {float(y[i, j])}, in f64 {exact}")
    count = min(MAX_COUNT, math.ceil(RUN_FLOPS / (2 * tokens * out * inputs)))

    @torch.no_grad()
    def run():
        for _ in range(count): torch.matmul(a, b, out=y)
    return run, count


def rotate(x, cos, sin):
    """RoPE on [batch, heads, seq, headDim], halves rotated as in Hugging Face's LLaMA."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Step:
    """One training step: LoRA by AdamW, log α by Adam, λ by ascent. The base has no gradients.

    Plain autograd, which keeps all activations; checkpointing would trade memory for a third more work.
    """
    def __init__(self, case, device, rate=2e-4, mask_rate=0.05):
        c = self.config = Namespace(**case["config"])
        generator = torch.Generator().manual_seed(1)
        # Fan-in scale keeps the residual stream alive, so that the loss of a tied head starts near ln(vocab).
        def normal(*shape, std=None):
            return (torch.randn(*shape, generator=generator) * (std or shape[-1] ** -0.5)).to(device)
        shapes = {"q": (c.heads * c.headDim, c.hidden), "k": (c.kvHeads * c.headDim, c.hidden), "v": (c.kvHeads * c.headDim, c.hidden),
                  "o": (c.hidden, c.heads * c.headDim), "gate": (c.ffn, c.hidden), "up": (c.ffn, c.hidden), "down": (c.hidden, c.ffn)}
        self.embedding = normal(c.vocab, c.hidden, std=0.02)
        self.head = self.embedding if c.tied else normal(c.vocab, c.hidden, std=0.02)
        self.norms = [torch.ones(c.hidden, device=device) for _ in range(2 * c.layers + 1)]
        self.base = [{name: normal(*shape) for name, shape in shapes.items()} for _ in range(c.layers)]
        self.lora = [{t: (normal(case["rank"], c.hidden).requires_grad_(),
                          torch.zeros(shapes[t][0], case["rank"], device=device, requires_grad=True)) for t in case["targets"]}
                     for _ in range(c.layers)]
        self.log_alpha = {}
        if case.get("masks", True):
            self.log_alpha = {"head": torch.full((c.layers, c.heads), 2.5, device=device, requires_grad=True),
                              "ffn": torch.full((c.layers, c.ffn), 2.5, device=device, requires_grad=True),
                              "hidden": torch.full((c.hidden,), 2.5, device=device, requires_grad=True)}
        self.lagrange, self.target = [0.0, 0.0], 0.2
        self.noise = torch.Generator(device=device).manual_seed(2)
        self.tokens = torch.randint(c.vocab, (case["batch"], case["seq"] + 1), generator=generator).to(device)
        angles = torch.arange(case["seq"])[:, None] / 10000 ** (torch.arange(0, c.headDim, 2) / c.headDim)
        self.cos, self.sin = (f(torch.cat((angles, angles), -1)).to(device) for f in (torch.cos, torch.sin))
        self.optimizers = [torch.optim.AdamW([p for layer in self.lora for pair in layer.values() for p in pair], lr=rate)]
        if self.log_alpha: self.optimizers.append(torch.optim.Adam(list(self.log_alpha.values()), lr=mask_rate))

    def frozen(self):
        return [self.embedding, self.head, *self.norms, *(w for layer in self.base for w in layer.values())]

    def sample(self):
        """z of every unit: s = sigmoid((log u − log(1−u) + log α)/β), stretched to [γ, ζ] and clamped to [0, 1]."""
        z = {}
        for name, log_alpha in self.log_alpha.items():
            u = torch.rand(log_alpha.shape, generator=self.noise, device=log_alpha.device).clamp(1e-6, 1 - 1e-6)
            s = torch.sigmoid((torch.logit(u) + log_alpha) / BETA)
            z[name] = (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
        return z

    def sparsity(self):
        """ŝ = 1 − expected kept / all parameters; a KV head lives while any head of its group does."""
        c = self.config
        p = {name: torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA)) for name, log_alpha in self.log_alpha.items()}
        groups = 1 - (1 - p["head"]).view(c.layers, c.kvHeads, -1).prod(-1)
        kept = p["hidden"].sum() * (2 * c.headDim * (p["head"].sum() + groups.sum()) + 3 * p["ffn"].sum())
        return 1 - kept / (c.layers * c.hidden * (2 * c.headDim * (c.heads + c.kvHeads) + 3 * c.ffn))

    def loss(self):
        """Mean cross-entropy over all tokens. Shapes: x [batch, seq, hidden]."""
        c, z = self.config, self.sample()
        def linear(x, layer, name):
            y = F.linear(x, self.base[layer][name])
            if name in self.lora[layer]:  # α = r, so the scale is 1
                a, b = self.lora[layer][name]
                y = y + F.linear(F.linear(x, a), b)
            return y
        def masked(x, name, layer=None, width=1):
            if name not in z: return x
            mask = z[name] if layer is None else z[name][layer]
            return x * (mask.repeat_interleave(width) if width > 1 else mask)
        def heads(x, count):
            return x.view(*x.shape[:2], count, c.headDim).transpose(1, 2)
        x = masked(F.embedding(self.tokens[:, :-1], self.embedding), "hidden")
        for layer in range(c.layers):
            h = F.rms_norm(x, (c.hidden,), self.norms[2 * layer], 1e-5)
            q = rotate(heads(linear(h, layer, "q"), c.heads), self.cos, self.sin)
            k = rotate(heads(linear(h, layer, "k"), c.kvHeads), self.cos, self.sin)
            v = heads(linear(h, layer, "v"), c.kvHeads)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
            x = x + masked(linear(masked(y, "head", layer, c.headDim), layer, "o"), "hidden")
            h = F.rms_norm(x, (c.hidden,), self.norms[2 * layer + 1], 1e-5)
            y = masked(F.silu(linear(h, layer, "gate")) * linear(h, layer, "up"), "ffn", layer)
            x = x + masked(linear(y, layer, "down"), "hidden")
        logits = F.linear(F.rms_norm(x, (c.hidden,), self.norms[-1], 1e-5), self.head)
        return F.cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten())

    def __call__(self):
        loss = total = self.loss()
        if self.log_alpha:
            excess = self.sparsity() - self.target
            total = loss + self.lagrange[0] * excess + self.lagrange[1] * excess ** 2
        total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.log_alpha:
            with torch.no_grad():
                for log_alpha in self.log_alpha.values(): log_alpha.clamp_(math.log(1e-2), math.log(1e2))
            excess = float(excess.detach())
            self.lagrange = [self.lagrange[0] + 0.1 * excess, self.lagrange[1] + 0.1 * excess ** 2]
        return float(loss.detach())


def check_step(device):
    """On a tiny decoder: the loss starts near ln(vocab) and falls, what trains moves, the base gets no gradient and stays."""
    step = Step({"config": TINY, "batch": 2, "seq": 32, "rank": 8, "targets": ["q", "v"]}, device, rate=1e-2)
    before = [w.clone() for w in step.frozen()]
    losses = [step() for _ in range(30)]
    start, end = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    if not abs(start - math.log(TINY["vocab"])) < 0.5: raise AssertionError(f"the loss starts at {start}, not near ln(vocab)")
    if not end < start - 0.2: raise AssertionError(f"the loss goes from {start} to {end}")
    for old, new in zip(before, step.frozen()):
        if new.grad is not None or not torch.equal(old, new): raise AssertionError("the base has a gradient or moved")
    for pair in (pair for layer in step.lora for pair in layer.values()):
        if not pair[1].abs().max() > 0: raise AssertionError("LoRA did not move")
    for log_alpha in step.log_alpha.values():
        if not (log_alpha - 2.5).abs().max() > 0: raise AssertionError("log α did not move")


def run_case(case, repeats):
    device = torch.device(case.get("device", "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available(): raise RuntimeError("torch sees no CUDA device")
    where = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    if case["kind"] == "product":
        run, count = product(case, device)
        return {**measure(run, repeats, device, count), "note": where}
    if case["kind"] == "step":
        check_step(device)
        step, losses = Step(case, device), []
        times = measure(lambda: losses.append(step()), repeats, device)
        return {**times, "note": f"{where}; loss {losses[0]:.2f}, ln(vocab) {math.log(case['config']['vocab']):.2f}; no checkpointing"}
    raise ValueError(f"torch has no case of kind {case['kind']}")


if __name__ == "__main__":
    request = json.load(sys.stdin)
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.backends.cuda.matmul.allow_tf32 = False  # the cases are f32
    for case in request["cases"]:
        try:
            emit(case=case["name"], **run_case(case, request.get("repeats", 7)))
        except Exception as error:  # the other cases go on
            emit(case=case["name"], error=f"{type(error).__name__}: {error}")
