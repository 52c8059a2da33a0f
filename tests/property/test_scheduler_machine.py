"""A state machine over everything that can happen to a scheduler, checked against a plain count of what was asked."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inference.engine.scripted import Fault, Script, ScriptedLoader
from inference.errors import BusyError, InferenceError, RequestError
from inference.events import Admitted, Delta, Event, Failed, Finished, PrefillProgress
from inference.params import KVQuantisation
from inference.ports import ModelRef
from inference.scheduler import Generation, Leave, ModelState, PoolRules, Scheduler, SchedulerSettings
from tests.scripted import ByteTokenizer, events, final_of, reply_ids, request, scheduled, text_of

MODELS = [ModelRef(name, Path(name)) for name in ("a", "b", "c")]
SETTINGS = SchedulerSettings(
    max_batch=3, max_models=2, max_queue=6, max_queue_per_client=3, tick_s=0.02, load_retry_s=0.0
)
FAULTS = [Fault.ROW, Fault.RAISE, Fault.FATAL]


class Client:
    """Reads one generation and checks the laws of its events as they come."""

    def __init__(self, wanted: Any, generation: Generation) -> None:
        self.wanted = wanted
        self.generation = generation
        self.told: list[Event] = []
        self.cancelled = False

    async def read(self) -> None:
        async for batch in self.generation:
            assert batch, "a batch is never empty"
            self.told.extend(batch)

    def check(self, script: Script) -> None:
        choices = self.wanted.params.n
        final = final_of(self.told, choices)
        kinds = [type(event) for event in self.told[:-1] if not isinstance(event, Finished)]
        order = [Admitted, PrefillProgress, Delta]
        assert kinds == sorted(kinds, key=order.index)
        spent = 0
        for choice in range(choices):
            whole = reply_ids(self.wanted, script, self.generation.max_tokens, choice)
            text = text_of(self.told, choice)
            assert ByteTokenizer().decode(whole).startswith(text)
            spent += len(whole)
            if isinstance(final, Finished):
                assert not self.cancelled or text, "it may have ended before it was cancelled"
                assert text == ByteTokenizer().decode(whole)
        if isinstance(final, Finished):
            assert final.usage.completion_tokens == spent
            assert final.usage.prompt_tokens == len(self.wanted.prompt)


class SchedulerMachine(RuleBasedStateMachine):
    """Every rule runs against the real threads; `settle` waits for them and compares view and truth."""

    @initialize()
    def begin(self) -> None:
        self.threads = threading.active_count()
        self.scripts = {model.id: Script(decode_s=0.0005, chunk_tokens=4) for model in MODELS}
        self.loader = ScriptedLoader(scripts=self.scripts)
        self.scheduler = Scheduler(lambda: self.loader, SETTINGS)
        self.scheduler.start()
        self.loop = asyncio.new_event_loop()
        self.clients: list[Client] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.orders: list[Any] = []
        self.submitted = self.refused = 0

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    @rule(
        model=st.sampled_from(MODELS),
        prompt=st.text("xyz", min_size=1, max_size=20),
        tokens=st.integers(1, 12),
        client=st.sampled_from(["", "k1", "k2"]),
        n=st.sampled_from([1, 1, 1, 2, 3]),
    )
    def submit(self, model: ModelRef, prompt: str, tokens: int, client: str, n: int) -> None:
        wanted = request(prompt, model=model, max_tokens=tokens, client=client, n=n, seed=7)

        async def submit() -> None:
            try:
                generation = self.scheduler.submit(wanted)
            except BusyError:
                self.refused += 1
                return
            self.submitted += 1
            self.clients.append(Client(wanted, generation))
            self.tasks.append(asyncio.ensure_future(self.clients[-1].read()))

        self.run(submit())

    @rule(
        prompt=st.sampled_from(["", "x" * 50, "x"]), tokens=st.sampled_from([0, -3, 5]), n=st.sampled_from([-1, 0, 4])
    )
    def submit_nonsense(self, prompt: str, tokens: int, n: int) -> None:
        async def submit() -> None:
            try:
                self.scheduler.submit(request(prompt, max_tokens=tokens, context_tokens=50, n=n))
            except RequestError:
                self.refused += 1
            else:
                raise AssertionError("nonsense was accepted")

        self.run(submit())

    @precondition(lambda self: self.clients)
    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        client = self.clients[which % len(self.clients)]
        client.cancelled = True
        client.generation.cancel()

    @rule(model=st.sampled_from(MODELS))
    def load(self, model: ModelRef) -> None:
        self.orders.append(self.scheduler.load(model))

    @rule(model=st.sampled_from(MODELS), leave=st.sampled_from(Leave))
    def unload(self, model: ModelRef, leave: Leave) -> None:
        self.orders.append(self.scheduler.unload(model.id, leave))

    @rule(most=st.integers(1, SETTINGS.max_models), pinned=st.sets(st.sampled_from([model.id for model in MODELS])))
    def rule_the_pool(self, most: int, pinned: set[str]) -> None:
        """Every order is answered and every request ends, also where nobody may leave."""
        self.scheduler.rule(PoolRules(most, pinned=frozenset(pinned)))

    @precondition(lambda self: self.clients)
    @rule(which=st.integers(0, 1000))
    def end(self, which: int) -> None:
        client = self.clients[which % len(self.clients)]
        client.cancelled = bool(self.scheduler.end(client.wanted.id)) or client.cancelled

    @rule(model=st.sampled_from(MODELS), fault=st.sampled_from(FAULTS), ahead=st.integers(0, 5))
    def break_a_step(self, model: ModelRef, fault: Fault, ahead: int) -> None:
        script = self.scripts[model.id]
        script.step_faults = {script.steps + ahead: fault}

    @rule(model=st.sampled_from(MODELS), fault=st.sampled_from([Fault.RAISE, Fault.INVALID_MODEL]))
    def break_the_next_load(self, model: ModelRef, fault: Fault) -> None:
        script = self.scripts[model.id]
        script.load_faults = {script.loads: fault}

    @rule(model=st.sampled_from(MODELS), fault=st.sampled_from([Fault.RAISE, Fault.FATAL]))
    def break_the_next_start(self, model: ModelRef, fault: Fault) -> None:
        script = self.scripts[model.id]
        script.start_faults = {script.starts: fault}

    @rule(pause_s=st.sampled_from([0.0, 0.002, 0.01]))
    def let_time_pass(self, pause_s: float) -> None:
        self.run(asyncio.sleep(pause_s))

    @rule()
    def settle(self) -> None:
        """When all is read, nothing is left anywhere and the view says so."""
        if self.tasks:
            self.run(asyncio.wait_for(asyncio.gather(*self.tasks), 20))
        for order in self.orders:
            if order.exception(timeout=20) is not None:
                assert isinstance(order.exception(), InferenceError)
        for client in self.clients:
            client.check(self.scripts[client.wanted.model.id])
        self._wait(lambda: self.scheduler.snapshot().running == 0 and not self.scheduler._admission.running())
        view = self.scheduler.snapshot()
        assert view.queue_depth == 0 and view.reserved_bytes == sum(
            model.limits.weights_bytes for model in view.models if model.limits
        )
        counters = view.counters
        assert (counters.submitted, counters.refused) == (self.submitted, self.refused)
        assert counters.submitted == counters.finished + counters.failed + counters.cancelled
        self._wait(self._models_agree)

    def _models_agree(self) -> bool:
        shown = {model.id for model in self.scheduler.snapshot().models if model.state is ModelState.READY}
        return shown == {name for name, script in self.scripts.items() if script.open_runners == 1}

    def _wait(self, condition: Any) -> None:
        until_s = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < until_s, self.scheduler.snapshot()
            time.sleep(0.001)

    @invariant()
    def it_lives_within_its_limits(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        assert self.scheduler.alive
        view = self.scheduler.snapshot()
        assert view.running <= SETTINGS.max_batch
        assert view.queue_depth <= SETTINGS.max_queue + SETTINGS.max_batch
        assert sum(model.state is ModelState.READY for model in view.models) <= SETTINGS.max_models
        assert all(script.open_runners in (0, 1) for script in self.scripts.values())

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.settle()
        assert self.scheduler.stop(10)
        self.loop.close()
        assert all(script.open_runners == 0 for script in self.scripts.values())
        assert threading.active_count() <= self.threads


SchedulerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestScheduler = SchedulerMachine.TestCase


wild = st.integers(-(2**65), 2**65) | st.integers(-1, 40)


@settings(max_examples=60, deadline=None)
@given(
    n=st.sampled_from([1, 1, 2]) | wild,
    min_tokens=st.just(0) | wild,
    top_logprobs=st.none() | wild,
    logit_bias=st.lists(st.tuples(wild, st.floats()), max_size=2).map(tuple),
    kv=st.none() | st.builds(KVQuantisation, st.sampled_from([8, 0, -3]), st.sampled_from([64, 0]), wild),
    ids=st.lists(st.integers(-(2**70), 2**70), max_size=4).map(tuple),
    text=st.text(max_size=8),
    max_tokens=st.one_of(st.none(), st.integers(-(2**65), 2**65)),
    context_tokens=st.integers(-5, 2**65),
    stop_ids=st.lists(st.integers(-(2**65), 2**65), max_size=2).map(tuple),
    deadline_s=st.one_of(st.none(), st.floats()),
    stop=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    seed=st.one_of(st.none(), st.integers()),
    fault=st.sampled_from([None, *FAULTS]),
)
def test_a_request_error_never_ends_the_worker(
    ids: tuple[int, ...], text: str, fault: Fault | None, **fields: Any
) -> None:
    async def run() -> None:
        script = Script(start_faults={0: fault} if fault in (Fault.RAISE, Fault.FATAL) else {})
        if fault is Fault.ROW:
            script.step_faults = {1: fault}
        with scheduled(script) as scheduler:
            wanted = request(text, **fields)
            wanted = type(wanted)(
                **{name: getattr(wanted, name) for name in wanted.__slots__}
                | ({"prompt": type(wanted.prompt)(ids)} if ids else {})
            )
            try:
                generation = scheduler.submit(wanted)
            except InferenceError:
                pass
            else:
                asyncio.get_running_loop().call_later(0.05, generation.cancel)
                final_of(await events(generation), wanted.params.n)
            script.start_faults = script.step_faults = {}
            assert isinstance(final_of(await events(scheduler.submit(request()))), Finished | Failed)
            assert isinstance(final_of(await events(scheduler.submit(request()))), Finished)
            assert scheduler.alive

    asyncio.run(run())
