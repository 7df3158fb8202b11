"""The page and a report in a real browser: what is drawn, what moves, what a link restores, what is refused."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
from playwright.sync_api import Browser, Page, expect  # noqa: E402  (after it is known to be there)

from .bench import ARGUMENTS, chromium, served  # noqa: E402
from .desks import desk, small  # noqa: E402

pytest.importorskip("vl_convert", reason="the page's charts come out of it: pip install vl-convert-python")
pytestmark = [
    pytest.mark.xdist_group("browser"),  # one browser and one server for all of these
    pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium"),
]
SMALL = "model=llama-3-8b&cluster=4xl4-pcie&tp=4&batch=2&input_tokens=512"
GPUS = "".join(f"GPU {i}: NVIDIA L40S (UUID: GPU-{i})\n" for i in range(4)).encode()
PEERS = (  # as nvidia-smi topo -p2p r prints it where GPUs do not reach each other
    "        GPU0    GPU1    GPU2    GPU3\n"
    + "".join(f" GPU{i}   " + "".join(f"{'X' if i == j else 'NS':8}" for j in range(4)) + "\n" for i in range(4))
).encode()
CHARTS = ("ttft", "length", "link", "degree", "pareto", "cost", "serve", "timeline", "cluster")
SETTLED = "html[data-settled]"  # curves and all else is there, too


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        yield found
        found.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as found:
        yield found


class Watched:
    """A page, and all that it complained about."""

    def __init__(self, page: Page) -> None:
        self.page, self.complaints = page, list[str]()
        page.set_default_timeout(30_000)
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """A fresh page at 1280 pixels. Whatever it complains about fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = Watched(context.new_page())
    yield found
    context.close()
    assert not found.complaints


def bars(page: Page) -> dict[str, float]:
    """The width of each scheme's bars, in pixels, by what the chart says of them."""
    return page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('[data-chart=ttft] .mark-rect path[aria-label]')]
        .map((path) => [path.getAttribute('aria-label'), path.getBBox().width]))"""
    )


def path_of(page: Page, chart: str) -> str:
    """The lines of a chart, as they are drawn."""
    lines = page.locator(f"[data-chart={chart}] figure .mark-line path")
    return " ".join(line.get_attribute("d") or "" for line in lines.all())


def slide(page: Page, name: str, by: int) -> None:
    """As a keyboard does it."""
    control = page.locator(f"#{name}")
    control.focus()
    for _ in range(abs(by)):
        control.press("ArrowRight" if by > 0 else "ArrowLeft")


def settled(page: Page) -> None:
    page.wait_for_selector(SETTLED, state="attached")


def drawn(page: Page, chart: str) -> None:
    """It is there once it is in sight, with words for those who do not see it."""
    figure = page.locator(f"[data-chart={chart}] figure")
    figure.scroll_into_view_if_needed()
    expect(figure.locator("svg .mark-group").first).to_be_attached(timeout=30_000)
    assert figure.locator("svg path[d], svg line").count() > 3, chart
    assert len(figure.get_attribute("aria-label") or "") > 30


def wait_until(holds: Callable[[], bool], what: str = "", seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def until(page: Page, what: str) -> None:
    """Playwright's own way of waiting evaluates text, which the page's policy forbids."""
    wait_until(lambda: page.evaluate(what), what)


def answered(page: Page) -> None:
    """Wait for the answer to what is asked next: call it first, do, then leave it."""
    page.evaluate("delete document.documentElement.dataset.settled")


def test_page_draws_its_charts_and_says_the_verdict(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    expect(page.locator("#verdict")).to_contain_text(re.compile(r"\d"))
    for chart in CHARTS:
        if chart != "cost":  # asked for by a button, for it takes seconds; the report has it
            drawn(page, chart)
    assert len(bars(page)) > 12  # schemes, in parts
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("[data-chart=ttft] summary").click()
    table = page.locator("[data-chart=ttft] table")
    expect(table).to_contain_text("flash-int4")
    assert table.locator("tbody tr").count() >= 5
    assert "thinwire compare" in page.locator("#command").inner_text()
    assert "import thinwire" in page.locator("#python").inner_text()
    assert page.locator("#grounds .kind").count() == 3  # the rest is folded
    assert page.locator("#more-grounds .kind").count() > 1


def test_timeline_zooms_and_rows_are_saved(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    drawn(page, "timeline")
    bar = page.locator("[data-chart=timeline] .mark-rect path").first

    def width() -> float:
        return float(bar.evaluate("(path) => path.getBBox().width"))

    before = width()
    page.locator("[data-zoom=in]").click()
    wait_until(lambda: width() > 1.9 * before)
    page.locator("[data-zoom=all]").click()
    wait_until(lambda: abs(width() - before) < 1)
    for button, begins in (("csv", b"scheme,ttft_ms"), ("json", b"{"), ("png", b"\x89PNG")):
        with page.expect_download() as found:
            page.locator(f"#{button}").click()
        assert Path(found.value.path()).read_bytes().startswith(begins)
        assert found.value.suggested_filename.endswith(button)


def test_slider_moves_bars_and_curves(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    page.locator("[data-chart=degree] figure").scroll_into_view_if_needed()
    page.wait_for_selector("[data-chart=degree] .mark-line path")
    before, drawn = path_of(page, "link"), page.locator("#verdict").inner_text()
    answered(page)
    slide(page, "input_tokens", 4)
    settled(page)
    assert page.locator("output[for=input_tokens]").inner_text() == "1,024"
    assert page.locator("#verdict").inner_text() != drawn
    assert path_of(page, "link") != before
    assert "input_tokens=1024" not in page.url  # that is the default
    answered(page)
    slide(page, "link", -4)
    settled(page)
    until(page, "location.search.includes('link=')")


def test_link_restores_the_state(watched: Watched, address: str, browser: Browser) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    slide(page, "batch", 4)
    page.locator("#tp").select_option("2")
    until(page, "location.search.includes('tp=2')")
    answered(page)
    page.locator("#scheme").fill("flash-int8")
    page.locator("#scheme").press("Enter")
    until(page, "location.search.includes('scheme=flash-int8')")
    settled(page)
    link, asked, said = page.url, page.locator("#asked").inner_text(), page.locator("#verdict").inner_text()
    other = browser.new_context().new_page()
    other.goto(link)
    settled(other)
    assert other.locator("#asked").inner_text() == asked
    assert other.locator("#verdict").inner_text() == said
    assert other.locator("#scheme").input_value() == "flash-int8"
    assert other.locator("#tp").input_value() == "2"
    assert other.locator("output[for=batch]").inner_text() == page.locator("output[for=batch]").inner_text() == "4"
    other.context.close()


def test_dropped_topology_becomes_a_machine(watched: Watched, address: str, root: Path) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    answered(page)
    page.locator("#file").set_input_files(root / "examples" / "topo.txt")
    expect(page.locator("#which")).to_be_visible()  # nvidia-smi topo -m does not say which GPU
    page.locator("#gpu").select_option("l4")
    expect(page.locator("#dropped")).to_contain_text("4 GPUs")
    settled(page)
    expect(page.locator("#asked")).to_contain_text("topo")
    expect(page.locator("#fault")).to_be_hidden()
    assert page.locator("#tp option").count() >= 3
    watched.complaints[:] = [said for said in watched.complaints if "400" not in said]  # the first answer: which GPU?


def as_files(*given: tuple[str, bytes]) -> list[sync_api.FilePayload]:
    return [{"name": name, "mimeType": "text/plain", "buffer": body} for name, body in given]


def test_dumps_dropped_together_are_one_machine_and_its_link_does_not_last(
    watched: Watched, address: str, root: Path
) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    expect(page.locator("#lasts")).to_be_hidden()  # names alone: it lasts
    answered(page)
    topo = (root / "examples" / "topo.txt").read_bytes()
    page.locator("#file").set_input_files(as_files(("topo.txt", topo), ("gpus.txt", GPUS)))
    expect(page.locator("#dropped")).to_contain_text("out of topo.txt, gpus.txt")
    settled(page)
    answered(page)
    page.locator("#file").set_input_files(as_files(("p2p.txt", PEERS)))
    expect(page.locator("#dropped")).to_contain_text("out of topo.txt, gpus.txt, p2p.txt")
    settled(page)
    page.locator("#dropped summary").click()
    form = page.locator("#question")
    assert form.evaluate("(node) => node.scrollWidth <= node.clientWidth")
    page.locator("#copy").click()
    expect(page.locator("#lasts")).to_contain_text("only while this server runs")
    expect(page.locator("#lasts code")).to_contain_text("thinwire cluster import topo.txt gpus.txt p2p.txt --out ")
    expect(page.locator("#lasts code")).to_contain_text("&& thinwire report --model llama-3-8b")
    page.locator("#rate").fill("0.5")
    page.locator("#own-price").fill("0.75")
    page.locator("#plan").click()
    lead = page.locator("[data-chart=cost] .lead")
    expect(lead).to_contain_text("4xl40s-imported 0.75 (given on the page)", timeout=30_000)
    expect(lead).to_contain_text("of 4xl40s-imported under")
    assert "price=drop" in page.evaluate("decodeURIComponent(location.search)")


def test_a_model_that_does_not_fit_fades_the_answer_before_and_one_degree_is_no_curve(
    watched: Watched, address: str
) -> None:
    page = watched.page
    page.goto(f"{address}?model=llama-3-8b&cluster=4xl4-pcie&tp=4&batch=2&input_tokens=512")
    settled(page)
    page.locator("#model").fill("llama-3-70b")
    page.locator("#model").press("Enter")
    expect(page.locator("#fault")).to_contain_text("does not fit")
    expect(page.locator("#verdict")).to_have_css("opacity", "0.4")
    answered(page)
    page.locator("#model").fill("qwen2.5-32b")
    page.locator("#model").press("Enter")
    settled(page)
    expect(page.locator("#verdict")).to_have_css("opacity", "1")
    expect(page.locator("[data-chart=degree] .lead")).to_contain_text("Only TP 4 can be here")
    expect(page.locator("[data-chart=degree] svg")).to_be_hidden()
    watched.complaints[:] = [said for said in watched.complaints if "400" not in said]


def test_times_are_rounded_as_the_headline_rounds_them(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    said = page.locator("#verdict").inner_text()
    tile = page.locator("#figures dd").nth(1).inner_text().split("\n")
    assert f"first token in {tile[0]} (" in said
    low, high = re.findall(r"[\d.]+", tile[1])[:2]
    assert f"({low}..{high})" in said


def test_file_may_be_dropped_anywhere(watched: Watched, address: str, root: Path) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    page.evaluate(
        """(text) => {
            const data = new DataTransfer();
            data.items.add(new File([text], 'config.json'));
            const over = document.querySelector('#verdict'), given = {dataTransfer: data, bubbles: true};
            for (const type of ['dragover', 'drop']) over.dispatchEvent(new DragEvent(type, given));
        }""",
        (root / "reference" / "models" / "llama-3.2-3b.json").read_text(),
    )
    expect(page.locator("#dropped")).to_contain_text("28 layers")
    until(page, "location.search.includes('model=drop')")


@pytest.mark.parametrize(
    ("name", "body"),
    [("notes.txt", b"nothing of the kind"), ("config.json", b'{"model_type": "llama"'), ("empty", b"")],
)
def test_bad_file_says_why(watched: Watched, address: str, name: str, body: bytes) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    before = page.url
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/plain", "buffer": body})
    expect(page.locator("#dropped.bad")).to_contain_text(re.compile(r"\w{4,}"))
    assert "/tmp" not in page.locator("#dropped").inner_text()
    assert page.url == before
    watched.complaints[:] = [said for said in watched.complaints if "400" not in said]


def test_names_are_text(watched: Watched, address: str, root: Path) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    evil = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
    text = (root / "examples" / "my-explicit-machine.toml").read_text()
    named = re.sub(r"(?m)^title\s*=.*$", f'title = "{evil}"', text)
    assert evil in named
    answered(page)
    page.locator("#file").set_input_files({"name": "<script>.toml", "mimeType": "text/plain", "buffer": named.encode()})
    expect(page.locator("#dropped")).to_contain_text("onerror=alert(1)")
    settled(page)
    page.locator("#cluster").click()
    expect(page.locator("#choices-cluster")).to_be_visible()
    assert page.locator("img, main script, form script").count() == 0
    assert "owned" not in page.title()


def test_unknown_name_is_refused_in_words(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    page.locator("#scheme").fill("flash-imt4")
    page.locator("#scheme").press("Enter")
    expect(page.locator("#fault")).to_contain_text("flash-imt4")
    page.locator("#scheme").fill("flash-int4")
    page.locator("#scheme").press("Enter")
    expect(page.locator("#fault")).to_be_hidden()
    watched.complaints[:] = [said for said in watched.complaints if "400" not in said]


@pytest.mark.parametrize("slip", ["foo=1&batch=4", "batch=none", "model=drop:7", "cluster=8xl40"])
def test_a_link_with_a_slip_says_so_and_shows_the_first_question(watched: Watched, address: str, slip: str) -> None:
    page = watched.page
    page.goto(f"{address}?{slip}")
    expect(page.locator("#fault")).to_contain_text("cannot be shown")
    settled(page)
    expect(page.locator("#verdict")).to_contain_text(re.compile(r"\d"))
    expect(page.locator("#fault")).to_be_visible()  # still
    assert page.locator("output[for=batch]").inner_text() == "8" and page.locator("#model").input_value()
    assert "stale" not in (page.locator("#answer").get_attribute("class") or "")
    answered(page)
    slide(page, "batch", 1)
    expect(page.locator("#fault")).to_be_hidden()
    settled(page)
    until(page, "!location.search.includes('foo') && location.search.includes('batch=')")
    watched.complaints[:] = [said for said in watched.complaints if "400" not in said]


def test_odd_places_have_short_ticks(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL.replace('input_tokens=512', 'input_tokens=123457')}&link=0.123457")
    settled(page)
    for chart in ("length", "link"):
        drawn(page, chart)
        labels = page.locator(f"[data-chart={chart}] .role-axis-label text").all_text_contents()
        assert len(labels) > 2 and max(map(len, labels)) <= 7, labels


def test_keyboard_reaches_everything(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}?{SMALL}")
    settled(page)
    wanted = {"model", "cluster", "scheme", "batch", "input_tokens", "link", "tp", "weights", "max_perplexity", "rate"}
    wanted |= {"max_lookups_lost", "own-price"}
    wanted |= {"slo_ttft_ms", "file", "reset", "copy", "theme", "plan", "csv", "json", "png"}
    reached = set[str]()
    for _ in range(90):
        page.keyboard.press("Tab")
        here = page.evaluate("[document.activeElement.id, document.activeElement.matches(':focus-visible')]")
        assert here[1] or here[0] == ""
        reached.add(here[0])
    assert wanted <= reached
    page.locator("#model").focus()
    page.keyboard.type("mistral-7")
    assert page.locator("#model").get_attribute("aria-expanded") == "true"
    page.keyboard.press("ArrowDown")
    assert page.locator("#model").get_attribute("aria-activedescendant") == "choices-model-0"
    page.keyboard.press("Enter")
    until(page, "location.search.includes('model=mistral-7b')")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button, summary, [role=listbox], [role=region]')]
        .filter((node) => !node.labels?.length && !node.getAttribute('aria-label') && !node.textContent.trim())
        .map((node) => node.outerHTML)"""
    )
    assert not unnamed


def test_dark_and_narrow(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(f"{address}?{SMALL}")
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    brightness = (
        "(node) => getComputedStyle(node).backgroundColor.match(/[0-9]+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    )
    assert page.locator("body").evaluate(brightness) < 150
    assert page.locator("[data-chart=ttft] svg").evaluate(brightness) < 150
    page.locator("#theme").click()  # auto -> light
    expect(page.locator("#theme")).to_have_text("Colours: light")
    until(page, f"({brightness})(document.querySelector('[data-chart=ttft] svg')) > 600")
    context.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from thinwire.page import report as pages

    path = tmp_path_factory.mktemp("report") / "report.html"
    axes = {"batch": [2.0], "input_tokens": [256.0, 512.0, 1024.0], "link": [0.5, 1.0]}
    html, _ = pages.page(desk(), small(), axes)
    pages.write(path, html)
    return path


def test_report_opens_without_a_network(browser: Browser, report: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    asked = list[str]()
    context.route("**/*", lambda route: (asked.append(route.request.url), route.continue_()))
    watched = Watched(context.new_page())
    page = watched.page
    page.goto(report.as_uri())
    settled(page)
    for chart in CHARTS:
        drawn(page, chart)
    before, said = path_of(page, "length"), page.locator("#verdict").inner_text()
    answered(page)
    slide(page, "input_tokens", 1)
    settled(page)
    assert page.locator("output[for=input_tokens]").inner_text() == "1,024"
    assert page.locator("#verdict").inner_text() != said
    answered(page)
    slide(page, "link", -1)
    settled(page)
    assert page.locator("output[for=link]").inner_text().startswith("×0.5")
    page.locator("[data-chart=length] figure").scroll_into_view_if_needed()
    page.wait_for_selector("[data-chart=length] .mark-line path")
    assert path_of(page, "length") != before
    until(page, "location.hash.includes('link=0.5')")
    assert page.locator("#file").is_hidden() and page.locator("#model").is_disabled()
    link, verdict = page.url, page.locator("#verdict").inner_text()
    page.goto("about:blank")
    page.goto(link)
    settled(page)
    assert page.locator("#verdict").inner_text() == verdict
    assert {url.split("#")[0] for url in asked} <= {report.as_uri()}
    assert not watched.complaints
    context.close()


def test_a_link_cannot_make_a_report_say_what_it_does_not_hold(browser: Browser, report: Path) -> None:
    """The model, the machine, the limit are its own: a link that names others is told so, not shown as if it were."""
    context = browser.new_context(offline=True)
    watched = Watched(context.new_page())
    page = watched.page
    page.goto(report.as_uri())
    settled(page)
    own = {name: page.locator(f"#{name}").input_value() for name in ("model", "cluster", "tp", "scheme")}
    figures, verdict = page.locator("#figures").inner_text(), page.locator("#verdict").inner_text()
    expect(page.locator("#fault")).to_be_hidden()
    lie = "model=llama-3-70b&cluster=8xh100-nvlink&tp=8&max_perplexity=2&scheme=no-such&batch=none&link=1"
    answered(page)
    page.goto(f"{report.as_uri()}#{lie}")  # by hand, in the page that is open
    expect(page.locator("#fault")).to_contain_text("model, cluster, tp, max_perplexity, scheme, batch")
    page.goto("about:blank")
    page.goto(f"{report.as_uri()}#{lie}")
    settled(page)
    expect(page.locator("#fault")).to_contain_text("model, cluster, tp, max_perplexity, scheme, batch")
    assert {name: page.locator(f"#{name}").input_value() for name in own} == own
    assert page.locator("#figures").inner_text() == figures and page.locator("#verdict").inner_text() == verdict
    answered(page)
    slide(page, "input_tokens", 1)
    expect(page.locator("#fault")).to_be_hidden()
    settled(page)
    until(page, "!location.hash.includes('cluster')")
    assert not watched.complaints
    context.close()


def test_report_without_the_library_shows_tables(browser: Browser, tmp_path: Path) -> None:
    from thinwire.page import report as pages

    path = tmp_path / "bare.html"
    axes = {"batch": [2.0], "input_tokens": [256.0, 512.0], "link": [1.0]}
    html, _ = pages.page(desk(), small(), axes, with_library=False, planned=False)
    assert pages.write(path, html) < 500_000
    context = browser.new_context(offline=True)
    watched = Watched(context.new_page())
    watched.page.goto(path.as_uri())
    settled(watched.page)
    expect(watched.page.locator("[data-chart=ttft] tbody tr").first).to_be_visible()
    ttft = watched.page.locator("[data-chart=ttft] tbody td").first
    before = ttft.text_content() or ""
    slide(watched.page, "input_tokens", -1)
    expect(ttft).not_to_have_text(before)
    expect(ttft).to_have_text(re.compile(r"^[\d.]+ ms$"))
    assert not watched.complaints
    context.close()
