"""A state is its query: what is written reads as the same, and what is no state is refused in one sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.page.state import LINK, State, read
from thinwire.sim.choices import WEIGHTS
from thinwire.sim.question import Question

NAMES = st.sampled_from(["llama-3-8b", "meta-llama/Llama-3.1-8B", "drop:7", "a name <b> & so=on", "ü"])
COUNTS = st.one_of(st.none(), st.integers(1, 4096))
FACTORS = st.floats(LINK.least, LINK.most, allow_nan=False)


@st.composite
def states(draw: st.DrawFn) -> State:
    question = Question(
        model=draw(st.sampled_from(["llama-3-8b", "meta-llama/Llama-3.1-8B", "drop:7"])),
        cluster=draw(NAMES.filter(lambda name: "/" not in name)),
        scheme=draw(st.sampled_from(["bf16", "flash-int4+spd-50", "two_step:int4-g32"])),
        tp=draw(COUNTS),
        gpus=draw(st.one_of(st.none(), st.lists(st.integers(0, 99), min_size=1, max_size=8, unique=True))),
        weights=draw(st.sampled_from(WEIGHTS)),
        batch=draw(st.integers(1, 1 << 20)),
        input_tokens=draw(st.integers(1, 1 << 24)),
        expert_skew=draw(st.floats(0, 4)),
        launch=draw(st.sampled_from(["eager", "graph"])),
    )
    return State(
        question,
        link=draw(FACTORS),
        max_perplexity=draw(st.floats(1, 10)),
        max_lookups_lost=draw(st.floats(0, 100)),
        rate=draw(st.one_of(st.none(), st.floats(1e-3, 1e6))),
        output_tokens=draw(st.floats(1, 1e6)),
        slo_ttft_ms=draw(st.floats(1e-3, 1e6)),
        prices=draw(st.sampled_from([(), (("8xl40s-pcie", 0.9),), (("a", 1.5), ("b", 1e-7))])),
    )


@given(states())
def test_a_link_asks_what_it_was_copied_from(state: State) -> None:
    assert read(state.link_text()) == state
    assert read(list(state.query().items())) == state


def test_nothing_given_is_a_state_and_a_link_says_the_whole_of_it() -> None:
    state = read("")
    assert read(state.link_text()) == state
    assert {"model", "cluster", "scheme", "batch", "input_tokens"} <= state.query().keys()
    assert read("input_tokens=2k") == read("input_tokens=2048")
    assert read("link=0.5").asking().scaled_links == (("*", 0.5),)
    assert read("").asking().scaled_links == ()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("modell=x", "unknown key 'modell' (allowed: model, cluster"),
        ("scaled_links=*", "unknown key"),
        ("batch=1&batch=2", "batch is given twice"),
        ("batch=1.5", "batch must be a whole number: '1.5'"),
        ("batch=-1", "batch must be a whole number"),
        ("batch=0", "batch must be positive"),
        ("input_tokens=0", "input_tokens must be positive"),
        ("input_tokens=two", "input_tokens must be a whole number"),
        ("batch=9999999999", "batch must lie in 1..1048576"),
        ("batch=" + "9" * 150, "batch must be a whole number"),
        ("link=0", "link must lie in 0.01..100"),
        ("link=nan", "link must lie in"),
        ("link=fast", "link must be a number: 'fast'"),
        ("weights=fp3", "weights must be one of"),
        ("gpus=1,1", "gpus lists each GPU once"),
        ("model=/etc/passwd", "no path"),
        ("model=..\\x", "no path"),
        ("cluster=mine.toml", "no path"),
        ("cluster=NVIDIA/DGX", "no path"),
        ("scheme=s.toml", "no path"),
        ("profile=p.json", "profile is drop:"),
        ("price=8xl40s-pcie", "price is MACHINE:NUMBER"),
        ("price=a:1,a:2", "price is MACHINE:NUMBER"),
        ("price=a:-1", "price of 'a' must lie in"),
        ("a", "a query is key=value"),
        ("&".join(f"k{i}=1" for i in range(50)), "at most 40 keys"),
        ("model=" + "x" * 300, "model has at most 200 characters"),
        ("x=" + "y" * 5000, "a query has at most 4096 characters"),
    ],
)
def test_what_is_no_state_is_refused(query: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(query)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 600
