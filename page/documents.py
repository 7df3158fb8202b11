"""The documents that the page is given: what the server answers and what a report carries, in the page's units.

Times are milliseconds (`_ms`) or, in a timeline, microseconds (`_us`); rates GB/s (1e9 B/s); shares of one. A value
that is not known is null. Everything is data: names are the user's, and the page shows them as text, never as HTML.

How the page is put together (page/assets.py): `static/page.html` holds the three lines

    <link rel="stylesheet" href="static/page.css">
    <script type="module" src="vega.js"></script>
    <script type="module" src="static/page.js"></script>

and, before them, `<script type="application/json" id="thinwire-data">{}</script>`, which is filled with `Start`.
Served, they stay; in a report each is replaced by what it names. Modules beside `page.js` are imported as
`import { a, b } from "./name.js";` and put into one for a report, so that what they define at the top has names of its
own. They read all they start from in `thinwire-data` (charts are in it too), and ask for the rest by `api/...?` + the
query of the state, or out of the grid.
"""

from typing import Any, Literal, NotRequired, TypedDict

Kind = Literal["compute", "codec", "wire", "waiting"]
Axis = Literal["input_tokens", "link", "tp"]


class Slider(TypedDict):
    """A number that may be moved. steps: what it snaps to; values between are taken as well where it is served."""

    key: str  # of the query
    label: str
    unit: str
    least: float
    most: float
    steps: list[float]
    whole: bool


class ModelOption(TypedDict):
    """parameters: a count. ids: other names that are searched, too."""

    name: str
    label: str
    parameters: int
    ids: list[str]


class MachineOption(TypedDict):
    """tp: degrees that are offered; a model may not divide over some, which the answer says."""

    name: str
    label: str
    gpu: str
    gpus: int
    tp: list[int]
    link_gb_per_s: float  # of a GPU's own link, each way, at link = 1


class SchemeOption(TypedDict):
    """bits: a value costs, reduce and gather; named: a row of every answer."""

    name: str
    label: str
    bits: list[float]
    named: bool


class Price(TypedDict):
    """Of a GPU an hour."""

    name: str
    per_gpu_hour: float
    source: str


class Options(TypedDict):
    """What may be chosen: `GET api/options`. Search needs no server: lists are whole."""

    models: list[ModelOption]
    machines: list[MachineOption]
    schemes: list[SchemeOption]
    gpus: list[str]
    weights: list[str]
    kv: list[str]
    sliders: list[Slider]
    defaults: dict[str, str]  # of the query; a key left out is this
    prices: list[Price]
    drop_bytes: int  # the most that may be dropped


class Row(TypedDict):
    """A scheme. ttft_ms null: it cannot run here, `why` says so. The four parts add up to ttft_ms: compute, and of the
    wire that nothing hides codec and wire, and waiting. perplexity: ratio over the uncompressed model's, of whose model
    `measured_on`.
    """

    scheme: str
    ttft_ms: float | None
    interval_ms: list[float]  # low, high, 90 %
    compute_ms: float
    codec_ms: float
    wire_ms: float
    waiting_ms: float
    speedup: float | None
    bits: list[float]  # a value, reduce and gather
    wire_mb: float  # sent by the GPU that sends most
    perplexity: float | None
    perplexity_interval: list[float] | None
    lookups_lost: float | None  # points of look-ups lost in a compressed prompt
    measured_on: str | None
    standing: str  # usable, floor, beyond, unknown, cannot
    best: bool
    chosen: bool
    why: str | None


class Bar(TypedDict):
    """A span of one layer on one rank, from the layer's first start on."""

    rank: int
    stream: str  # compute, communication
    kind: Kind
    name: str
    start_us: float
    end_us: float


class Timeline(TypedDict):
    """One layer on every rank."""

    layer: int
    layers: int
    layer_us: float
    bars: list[Bar]
    note: str


class Node(TypedDict):
    """Of the drawing: centre, in units of `Drawing.width` x `Drawing.height`. rank: of a GPU in use."""

    name: str
    kind: str  # gpu, switch, host_bridge, nic
    x: float
    y: float
    rank: int | None


class Wire(TypedDict):
    """Both directions of a link, or a pool of them. utilisation: bytes of the whole prefill over what the busier
    direction carries in the TTFT, 0..1.
    """

    source: str
    target: str
    gb_per_s: float
    mb: float
    utilisation: float


class Drawing(TypedDict):
    """The machine: `nodes` to place, `links` between them, `pools` (capacities that links share) as a list."""

    width: float
    height: float
    nodes: list[Node]
    links: list[Wire]
    pools: list[Wire]
    note: str


class Ground(TypedDict):
    """What the number rests on. share: of the interval's width; kind: the class of its source."""

    text: str
    kind: str  # measured, fitted, datasheet, assumed, rule
    share: float


class Detail(TypedDict):
    """Of the chosen scheme. at: the state it is of, which in a report may be another than the sliders'."""

    scheme: str
    at: dict[str, str]
    timeline: Timeline
    drawing: Drawing
    rests_on: list[Ground]
    command: str
    python: str


class Answer(TypedDict):
    """`GET api/answer`: rows soonest first, those that cannot run last. Also the points of the Pareto chart."""

    version: str
    state: dict[str, str]  # normalised: the query that asks the same
    title: str
    verdict: str
    model: str
    machine: str
    tp: int
    baseline: str
    limit: str  # on accuracy, in words
    notes: list[str]  # warnings: a model beyond its positions, say
    link_gb_per_s: float  # of a GPU's link as asked
    rows: list[Row]
    detail: NotRequired[Detail]
    command: str  # that gives the rows
    python: str


class Series(TypedDict):
    """A scheme along an axis; null where it cannot run."""

    scheme: str
    ttft_ms: list[float | None]
    low_ms: list[float | None]
    high_ms: list[float | None]


class Crossover(TypedDict):
    """From x on, upwards, `sooner` is sooner than `than`, and at `after`, below, it is not yet. Served, predictions
    between the points say so; in a report the two are neighbours of the grid. text: that, for people.
    """

    x: float
    after: float
    ttft_ms: float
    sooner: str
    than: str
    text: str


class Curve(TypedDict):
    """TTFT along an axis. x: values of the axis; marks: texts for them, where they are no numbers."""

    axis: Axis
    label: str
    x: list[float]
    marks: list[str]
    now: float
    series: list[Series]
    crossovers: list[Crossover]


class Curves(TypedDict):
    """`GET api/curves`; with `axis=` one of them, the fastest way to the chart that a slider moves."""

    state: dict[str, str]
    curves: list[Curve]


class Percentile(TypedDict):
    """Of a run; plus_minus: of the simulation alone, 95 %; null where there are too few to tell."""

    name: str
    value_ms: float
    plus_minus_ms: float | None


class ServeRow(TypedDict):
    """A scheme under the load."""

    scheme: str
    ttft: list[Percentile]
    tpot: list[Percentile]
    goodput_per_s: float
    kept: float | None  # share of requests that keep the SLO
    saturated: bool
    why: str | None


class Serve(TypedDict):
    """`GET api/serve`: one replica under `rate` requests a second."""

    state: dict[str, str]
    rate: float
    requests: int
    seconds: float
    rows: list[ServeRow]
    note: str
    command: str


class Deployment(TypedDict):
    """A candidate of a plan; kept: it keeps the target."""

    machine: str
    tp: int
    scheme: str
    replicas: int | None
    gpus: int | None
    cost_per_hour: float | None
    ttft_ms: float | None
    ttft_plus_minus_ms: float | None
    perplexity: float | None
    kept: bool
    frontier: bool
    best: bool
    why: str


class Plan(TypedDict):
    """`GET api/plan`: what keeps a TTFT under a load, and what it costs."""

    state: dict[str, str]
    currency: str
    target_ms: float
    percentile: int
    verdict: str
    deployments: list[Deployment]
    prices: list[Price]
    seconds: float
    note: str
    file: str  # the plan's file, for `thinwire plan`


class Dropped(TypedDict):
    """`POST api/drop?` + the query of the state, body the file, its name URL-encoded in the header X-Filename. Of
    several the body is one after the other, and X-Files has `NAME:BYTES` of each, with commas between; X-Earlier says
    how many of them, the first, were dropped before (page/drops.py). key, value: of the query.
    """

    kind: str  # model, machine, profile
    key: str
    value: str
    label: str
    said: list[str]
    option: NotRequired[Any]  # a ModelOption or MachineOption to add to the lists
    files: NotRequired[list[str]]  # names of the dumps that the machine is made of


class Refused(TypedDict):
    """Any other status than 200: one sentence. needs: a key of the query (`gpu`, of `Options.gpus`) that would help
    what was dropped: the same request again, with it.
    """

    error: str
    needs: NotRequired[str]


class Grid(TypedDict):
    """What a report carries. Keys of the tables are indices of axes joined by commas, in the order batch,
    input_tokens, link: `answers["0,3,1"]`; of curves the axis comes first and its own index is left out:
    `input_tokens:0,1` (batch, link), `link:0,3` (batch, input_tokens); `tp:0,3,1` is there for the start alone, and
    `Curve.now` is the slider's matter. details: by scheme, at the state asked for (`Detail.at`); answers have none.
    """

    axes: dict[str, list[float]]
    start: list[int]  # indices of the state asked for
    answers: dict[str, Answer]
    refused: dict[str, str]  # why there is no answer at a point
    curves: dict[str, Curve]
    details: dict[str, Detail]
    serve: Serve | None
    plan: Plan | None
    predictions: int


class Start(TypedDict):
    """What `thinwire-data` holds. charts: Vega-Lite specs by file name without `.json`. grid: base64 of gzip of `Grid`,
    in a report alone; fixed: controls that cannot be moved there.
    """

    mode: Literal["served", "report"]
    version: str
    state: dict[str, str]
    options: Options
    charts: dict[str, Any]
    made: str  # when and by what, in words; a report's
    grid: NotRequired[str]
    fixed: NotRequired[list[str]]
