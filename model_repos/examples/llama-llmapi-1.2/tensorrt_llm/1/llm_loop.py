"""Runs generations in a thread of their own, each a task of one event loop.

The LLM API's results are asynchronous iterators, and its engine joins whatever runs at the same
time. One more task looks for cancelled requests.
"""

import asyncio
import contextlib
import threading

from llm_answer import send_cancelled, send_error, send_output


class LlmLoop:
    """The engine and what runs on it. ``submit`` and ``stop`` may be called from any thread."""

    def __init__(self, llm, sampling_class, *, cancellation_check_period_s):
        self._llm = llm
        self._sampling_class = sampling_class
        self._period_s = cancellation_check_period_s
        self._running = set()  # changed in the loop alone
        self._tasks = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="llm-loop")
        self._thread.start()
        self._loop.call_soon_threadsafe(self._start, self._watch())

    def submit(self, request_id, llm_request, sender):
        """Start a generation; its answers go to ``sender``."""
        generation = self._generate(request_id, llm_request, sender)
        self._loop.call_soon_threadsafe(self._start, generation)

    def stop(self, request_id):
        """End what runs under an id; each answers with what it has."""
        self._loop.call_soon_threadsafe(self._abort, request_id)

    def close(self):
        """End everything and wait for the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _start(self, coroutine):
        task = self._loop.create_task(coroutine)
        # The loop itself keeps weak references only.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _abort(self, request_id):
        for running in self._running:
            if running.request_id == request_id:
                running.result.abort()

    async def _generate(self, request_id, llm_request, sender):
        running = None
        try:
            sampling = self._sampling_class(**llm_request.sampling)
            # By name: the parameter's place differs from release to release.
            result = self._llm.generate_async(
                llm_request.prompt, sampling_params=sampling, streaming=llm_request.streaming
            )
            running = _Running(request_id, result, sender)
            self._running.add(running)
            await self._answer(llm_request, running)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):  # its client may be gone
                send_cancelled(sender)
            raise
        except Exception as error:  # whatever is wrong with it belongs to this request alone
            with contextlib.suppress(Exception):  # its client may be gone
                send_error(sender, f"Error generating request: {error}")
        finally:
            self._running.discard(running)

    async def _answer(self, llm_request, running):
        sender, wanted = running.sender, llm_request.outputs
        last = None
        async for output in running.result:
            last = output
            is_due = llm_request.streaming and not output.finished and not running.is_given_up
            if is_due:
                send_output(sender, output, wanted, is_final=False)
        if running.is_given_up or last is None:
            send_cancelled(sender)
        else:
            send_output(sender, last, wanted, is_final=True)

    async def _watch(self):
        while True:
            await asyncio.sleep(self._period_s)
            for running in self._running:
                if not running.is_given_up and running.sender.is_cancelled():
                    running.is_given_up = True
                    running.result.abort()

    async def _end(self):
        for running in self._running:
            running.result.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Running:
    """A generation that has not ended."""

    def __init__(self, request_id, result, sender):
        self.request_id = request_id
        self.result = result
        self.sender = sender
        self.is_given_up = False
