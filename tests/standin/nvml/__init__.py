"""A stand-in for the NVIDIA driver's management library: the same C functions, answering from a text file.

How to use it in a test of a daemon (or of the frozen binary), which is a process of its own:

    library = build()                                             # tests/standin/nvml/build.py
    driver = StateFile(tmp_path / "nvml.state", state_of(worked_example()))
    env = {**os.environ, **driver.environment, "MORTALGPU_DRIVER_LIBRARY": str(library)}
    ...start the daemon with env...
    driver.set_processes(uuid, Process(uuid, pid=1234, used=3 * GIB))
    driver.lose(uuid); driver.push_event(gpu_uuid, "xid", 79); driver.add_fault("nvmlDeviceGetMemoryInfo_v2", hang=0)

`worked_example()` (mortalgpu.simulation.driver) gives the devices of the worked example; `state_of` takes any `Device`s.

In a test's own process, set the variable `MORTALGPU_NVML_STATE` in os.environ (monkeypatch.setenv) to the state's path and open
`nvml_driver(NvmlSettings(library=str(build())))`. The library is loaded once per process and is global to it: one
driver open at a time; between tests, point the variable to another file, which makes it another machine.
"""

from tests.standin.nvml.build import BuildError, build
from tests.standin.nvml.state import Driver, Event, FaultRule, Gpu, Partition, Process, State, StateFile, state_of

__all__ = [
    "BuildError",
    "Driver",
    "Event",
    "FaultRule",
    "Gpu",
    "Partition",
    "Process",
    "State",
    "StateFile",
    "build",
    "state_of",
]
