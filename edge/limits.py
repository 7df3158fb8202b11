"""How large, small, long and many what is given may be, each with its reason. docs/limits.md shows this list.

A limit is not a rule of the model: within it, what does not fit or does not divide is refused where that is known. It
keeps a slip of the finger or a hostile file from a meaningless answer, an hour of silence or all of the memory.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """least, most: both allowed, in `unit` (SI); above: `least` itself is not. why: what lies beyond."""

    what: str
    least: float
    most: float
    unit: str
    why: str
    above: bool = False

    def holds(self, value: float) -> bool:
        """False for what is no number, too."""
        return (self.least < value if self.above else self.least <= value) and value <= self.most

    def check(self, name: str, value: float) -> None:
        """ValueError with the value and what is allowed."""
        if not self.holds(value):
            raise ValueError(f"{name} must lie {self.range}: {name}={_number(value)}")

    @property
    def range(self) -> str:
        """`in 8..65536`, `in (0, 1.2]`."""
        least, most = _number(self.least), _number(self.most)
        return f"in ({least}, {most}]" if self.above else f"in {least}..{most}"


@dataclass(frozen=True, slots=True)
class Count(Limit):
    """The same in whole numbers."""

    least: int
    most: int


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a whole number of more than 40 digits"
    return str(value)


# ---- files

JSON_BYTES = Count("a JSON file", 0, 1 << 24, "bytes", "our largest has 0.8 MB; as many empty lists take 400 MB")
TOML_BYTES = Count("a TOML file", 0, 1 << 20, "bytes", "people write them, and reading takes seconds a megabyte")
TRACE_BYTES = Count("a trace", 0, 1 << 32, "bytes", "a hundred million rows; /dev/zero has no end")
PIPED_TRACE_BYTES = Count(
    "a trace from a pipe", 0, 1 << 26, "bytes", "it is kept in memory, for a pipe can be read but once"
)
COUNTS_BYTES = Count("counts of an all-to-all", 0, 1 << 20, "bytes", "256 ranks squared, 15 digits each")
LINE_BYTES = Count("a line of a trace", 0, 1 << 12, "bytes", "a row has three values")
DUMP_BYTES = Count("a dump of a machine", 0, 1 << 22, "bytes", "the largest seen has 14 kB; pasted logs a few hundred")
DUMP_LINES = Count("lines of a dump", 0, 100_000, "lines", "a second of reading; a rack's topology has two thousand")
DUMP_MATRICES = Count("matrices of a dump", 0, 64, "matrices", "nvbandwidth prints thirty")
DUMP_ELEMENTS = Count("elements of a topology in XML", 0, 20_000, "elements", "a rack of 72 GPUs has two thousand")
DUMP_DEVICES = Count("GPUs and NICs of a dump", 0, 256, "devices", "time grows with the cube; a rack has 144")
LOG_BYTES = Count("a log of nccl-tests", 0, 1 << 25, "bytes", "NCCL_DEBUG=INFO of 64 ranks fills a tenth of it")
LOG_ROWS = Count("rows of a log", 0, 1 << 14, "rows", "a sweep in steps of a megabyte up to 16 GiB")
LOGS = Count("logs at once", 1, 256, "files", "every operation and number of ranks of one machine are a few dozen")
NESTING = Count("tables and lists in each other", 0, 64, "levels", "no file of ours is nested ten deep")
WHOLE = Count(
    "a whole number in a file", -(1 << 63), (1 << 63) - 1, "", "64 bits, as TOML has it: beyond, numpy overflows"
)

# ---- schemes

GROUP = Count(
    "values of a group or block",
    8,
    1 << 16,
    "values",
    "its scale costs 0.0002 bits a value: nothing is left to save",
)
ROTATION = Count("values that a Hadamard rotation mixes", 2, 1 << 16, "values", "as a group")
TOGETHER = Count("ranks of a collective", 1, 256, "ranks", "four seconds and 300 MB, growing with the square")
TRANSFERS = Count("chunks of a message times ranks squared", 1, 1 << 18, "", "as 256 ranks with four chunks")
CHUNKS = Count("chunks of one message", 1, 1 << 12, "chunks", "each is a step of its own to simulate")
DIGITS = Count("digits of a number in a scheme", 1, 40, "digits", "nothing there counts so far")

# ---- models

LAYERS = Count("layers of a model", 1, 1 << 12, "layers", "each has sync points of its own to plan")
WIDTH = Count("a width, a vocabulary or a count of heads", 1, 1 << 24, "values", "64 times Gemma 2's vocabulary")
SKEW = Limit("how unevenly experts are chosen", 0, 4, "", "the first of 128 then takes 92 % of what is chosen")
POSITIONS = Count("positions of a model", 1, 1 << 40, "tokens", "context windows are a million")

# ---- machines

GPUS = Count("GPUs of a machine", 1, 1 << 12, "GPUs", "512 nodes of eight; a replica takes a few of them")
LINKS = Count("links of a machine", 0, 1 << 17, "links", "a full mesh of 362 GPUs")
BANDWIDTH = Limit("a bandwidth", 1e3, 1e18, "B/s", "a modem; what an emulated GPU has whose memory costs nothing")
LATENCY = Limit("a latency", 1e-10, 10.0, "s", "three centimetres of light; longer than to the moon and back")
MEMORY = Limit("a memory or a cache", 1.0, 1e15, "B", "a byte is as good as none; ten racks")
COMPUTE = Limit("a rate of operations", 1e6, 1e20, "FLOP/s", "a microcontroller; a thousand of today's racks")
PROCESSORS = Limit("multiprocessors of a GPU", 1, 1 << 16, "SM or CU", "a hundred times the largest")

# ---- costs

EFFICIENCY = Limit(
    "an efficiency",
    0.0,
    1.2,
    "",
    "a clock above the nominal may pass a datasheet, by no fifth",
    above=True,
)
SECONDS = Limit("a time of a kernel, launch or step", 0.0, 10.0, "s", "a launch takes microseconds")
LOG_FACTOR = Limit(
    "a weight of a correction, a quantile of an error", -10.0, 10.0, "", "logarithms: 10 is a factor of 20,000"
)
THOUSANDTHS = Count("a correction of attention", -700, 700, "", "thousandths of a logarithm: a factor of 2 either way")
PURE = Limit("another number of a profile", 0.0, 1e6, "", "passes, exponents, tokens: shipped ones are within 2,000")
SLOWER = Limit("a factor on a rank's time", 0.0, 1e6, "", "a straggler is slower by halves", above=True)
RANKS = Count("ranks of a measurement", 1, 1 << 16, "ranks", "as GPUs, with room")
CHANNELS = Count("connections between two ranks", 1, 64, "", "shipped profiles have one or two")

# ---- questions

TOKENS = Count("tokens of a sequence", 1, 1 << 24, "tokens", "more is a mistake in a file")
BATCH = Count("sequences at once", 1, 1 << 20, "sequences", "as the tokens of an iteration")
MESSAGE = Count("bytes of a collective", 2, 1 << 44, "B", "all the memory of 200 GPUs")
DURATION = Limit("seconds of arrivals", 1e-3, 31_622_400.0, "s", "a year", above=False)
RATE = Limit("requests a second", 0.0, 1e9, "1/s", "above, gaps vanish beside the time of day", above=True)
REQUESTS = Count("requests of a serving run", 1, 20_000_000, "requests", "5,555 a second for an hour")
SEED = Count("a seed", 0, (1 << 63) - 1, "", "64 bits, as files have it")
ITERATION = Count("tokens, or sequences, of an iteration", 1, 1 << 20, "", "a hundred times what engines take")
KV_TOKENS = Count("tokens of a KV cache", 1, 1 << 40, "tokens", "and what the memory has room for")
HOST = Limit("milliseconds of the host", 0.0, 3.6e6, "ms", "an hour an iteration")
TRANSFER = Limit("gigabytes a second between pools", 1e-6, 1e6, "GB/s", "as a bandwidth")
DECODE_REPLICAS = Count("replicas of the second pool", 0, 1 << 12, "replicas", "none: prompts and decoding share one")
WARM_UP = Limit("seconds that are not counted", 0.0, 31_622_400.0, "s", "a year")
REPLICAS = Count("replicas of a pool", 1, 1 << 12, "replicas", "16,384 GPUs at TP 4")
USERS = Count("users of a closed loop", 1, 1 << 17, "users", "each keeps a request in memory")
SPEED = Limit("a trace's speed", 1e-6, 1e6, "", "a day in a tenth of a second")
FACTOR = Limit("a factor on a rate of links", 1e-6, 1e6, "", "from a wire to none, and back")
SLO = Limit("milliseconds of an SLO", 0.0, 1e9, "ms", "eleven days", above=True)

ALL: tuple[Limit, ...] = tuple(value for value in globals().values() if isinstance(value, Limit))
