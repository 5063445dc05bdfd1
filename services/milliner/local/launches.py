"""From a topology's file to the processes to start: facts of model folders, ports, configurations of roles.

Everything that can be wrong with a topology is found here, before a process starts, as far as small JSON files tell
(no torch, no tensors). Called once by the command line; blocking, a few milliseconds.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from importlib import resources

from milliner.contract import availability, documents, names, plan, plan_whole, role_config, topology
from milliner.core import errors
from milliner.local import model_facts, ports, secret_files

HOST = "127.0.0.1"
_DEMO = "demo.yaml"
_PORT_OPTION = "--device-port"
_MOST_PROCESSES = 64  # arbitrary: at about 0.35 GB each, more than a workstation holds

RoleConfig = role_config.Config


@dataclasses.dataclass(frozen=True, slots=True)
class RoleLaunch:
    """One process: the name that people see, and its configuration (role, address and all).

    `port_option` is the option by which the user asked for its port; where there is none, any other port will do.
    """

    name: str
    config: RoleConfig
    port_option: str = ""

    @property
    def address(self) -> str:
        return f"{self.config.listen.host}:{self.config.listen.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class TopologyLaunch:
    """All processes of one topology; `model` is the name that clients ask for."""

    name: str
    strategy: str
    model: str
    clouds: tuple[RoleLaunch, ...]
    devices: tuple[RoleLaunch, ...]
    notes: tuple[str, ...] = ()  # fields of the topology that have no effect here, one sentence each

    @property
    def roles(self) -> tuple[RoleLaunch, ...]:
        return (*self.clouds, *self.devices)


@dataclasses.dataclass(frozen=True, slots=True)
class PortWishes:
    """Which ports devices get: `first` is required for the very first one; `as_declared` prefers the pools' ports."""

    first: int | None = None
    as_declared: bool = True


def plan_file(
    file: pathlib.Path | None,
    *,
    name: str | None = None,
    wishes: PortWishes = PortWishes(),
    time_scale: float = 1.0,
) -> list[TopologyLaunch]:
    """The launches of a file's topologies, or of the one called `name`; without a file, of the built-in demo.

    Raises `ContractError` (file or schema), `ConfigError` (options, ports) with the words for the user.
    """
    if file is None:
        folder, found = pathlib.Path.cwd(), demo_topologies()
    else:
        folder, found = file.parent, documents.load_topologies(str(file))
    if name is not None:
        known = ", ".join(one.name for one in found)
        found = [one for one in found if one.name == name]
        if not found:
            raise errors.ConfigError(f"the file holds no topology {name!r}, only {known}", field="--name")
    _refuse_repeated_names(found)
    taken: set[int] = set()
    launches = []
    for index, wanted in enumerate(found):
        own_wishes = wishes if index == 0 else dataclasses.replace(wishes, first=None)
        launches.append(plan_topology(wanted, folder=folder, wishes=own_wishes, time_scale=time_scale, taken=taken))
    return launches if len(launches) == 1 else [_with_long_names(launch) for launch in launches]


def _refuse_repeated_names(found: list[topology.InferenceTopology]) -> None:
    """A file may hold one name in two namespaces; here there are none."""
    names_seen: set[str] = set()
    for one in found:
        if one.name in names_seen:
            raise errors.ConfigError(
                f"{one.name} is used by topologies of several namespaces, which do not exist here: give each its own",
                field="metadata.name",
            )
        names_seen.add(one.name)


def _refuse_too_many(wanted: topology.InferenceTopology) -> None:
    """A topology written for a cluster may name more devices than one machine can play."""
    count = len(plan.cloud_places(wanted)) + len(plan.device_places(wanted))
    if count > _MOST_PROCESSES:
        raise errors.ConfigError(
            f"{wanted.name} has {count} replicas in all, each a process here: use at most {_MOST_PROCESSES}",
            field="replicas",
        )


def demo_topologies() -> list[topology.InferenceTopology]:
    """The topology that runs where none is given."""
    text = resources.files("milliner.local").joinpath(_DEMO).read_text()
    return documents.parse_topologies(text, origin=_DEMO)


def plan_topology(
    wanted: topology.InferenceTopology,
    *,
    folder: pathlib.Path,
    wishes: PortWishes = PortWishes(),
    time_scale: float = 1.0,
    taken: set[int] | None = None,
) -> TopologyLaunch:
    """The launch of one topology; `folder` is what relative paths start from, `taken` the ports given away so far."""
    taken = set() if taken is None else taken
    _refuse_too_many(wanted)
    try:
        clouds, devices = _configs(wanted, folder=folder, wishes=wishes, time_scale=time_scale, taken=taken)
    except ValueError as error:
        raise errors.ConfigError(str(error), field="--time-scale") from None
    threads = _threads_each(len(clouds) + len(devices))
    device_launches = [_role_launch(config, threads=threads) for config in devices]
    if wishes.first is not None:
        device_launches[0] = dataclasses.replace(device_launches[0], port_option=_PORT_OPTION)
    return TopologyLaunch(
        name=wanted.name,
        strategy=wanted.spec.strategy.type.value,
        model=wanted.served_name,
        clouds=tuple(_role_launch(config, threads=threads) for config in clouds),
        devices=tuple(device_launches),
        notes=(*availability.notes(wanted), *_port_notes(wanted, device_launches, wishes=wishes)),
    )


def _configs(
    wanted: topology.InferenceTopology, *, folder: pathlib.Path, wishes: PortWishes, time_scale: float, taken: set[int]
) -> tuple[tuple[RoleConfig, ...], tuple[RoleConfig, ...]]:
    """Configurations of the cloud's processes and of the devices, ports chosen."""
    places = (folder, pathlib.Path.cwd())
    if wanted.spec.strategy.type in plan_whole.TYPES:
        whole = plan_whole.resolve(
            wanted,
            facts=model_facts.read_whole(wanted, relative_to=places),
            pool_facts=model_facts.read_pools(wanted, relative_to=places),
            time_scale=time_scale,
        )
        count = wanted.spec.cloud.desired_replicas if whole.has_cloud else 0
        prefills = plan_whole.prefill_configs(whole, ports=_free_ports(count, taken))
        return prefills, plan_whole.device_configs(
            whole,
            cloud_endpoints=[f"{HOST}:{config.listen.port}" for config in prefills],
            ports=_device_ports(plan.device_places(wanted), wishes=wishes, taken=taken),
            api_key_file=_api_key_file(whole, places),
        )
    facts = model_facts.read(wanted, relative_to=places)
    resolved = plan.resolve(wanted, facts=facts, time_scale=time_scale)
    cloud_ports = _free_ports(len(plan.cloud_places(wanted)), taken)
    device_ports = _device_ports(plan.device_places(wanted), wishes=wishes, taken=taken)
    clouds = plan.cloud_configs(resolved, ports=cloud_ports)
    endpoints = [f"{HOST}:{config.listen.port}" for config in clouds if config.stage == 0]
    return clouds, plan.device_configs(resolved, cloud_endpoints=endpoints, ports=device_ports)


def _api_key_file(whole: plan_whole.Resolved, places: tuple[pathlib.Path, ...]) -> str | None:
    """Where the key of an external engine is, if it asks for one."""
    if whole.external is None or whole.external.api_key_secret_ref is None:
        return None
    field = "spec.cloud.engine.external.apiKeySecretRef"
    return str(secret_files.find(whole.external.api_key_secret_ref, field=field, relative_to=places))


def _free_ports(count: int, taken: set[int]) -> list[int]:
    return [_take(taken, ports.any_free(HOST, avoid=taken)) for _ in range(count)]


def _port_notes(
    wanted: topology.InferenceTopology, devices: list[RoleLaunch], *, wishes: PortWishes
) -> tuple[str, ...]:
    """Which devices listen elsewhere than the topology says: requests to the port that it names would go to others."""
    if not wishes.as_declared:
        return ()
    return tuple(
        f"port {place.wanted_port} is taken, so {device.name} listens on {device.config.listen.port}"
        for place, device in zip(plan.device_places(wanted), devices, strict=True)
        if not device.port_option and device.config.listen.port != place.wanted_port
    )


def connected(device: RoleLaunch, *, clouds: tuple[RoleLaunch, ...]) -> RoleLaunch:
    """The same device with these cloud replicas as its endpoints; they must serve the slice that it needs."""
    endpoints = _addresses(clouds, stage=0)
    return dataclasses.replace(device, config=device.config.model_copy(update={"cloud_endpoints": endpoints}))


def _chained(cloud: RoleLaunch, *, clouds: tuple[RoleLaunch, ...]) -> RoleLaunch:
    """The same cloud process, handing on to those of these that are of the next stage."""
    config = cloud.config
    if not isinstance(config, role_config.CloudRoleConfig) or config.next_stage is None:
        return cloud
    behind = config.next_stage.model_copy(update={"endpoints": _addresses(clouds, stage=config.stage + 1)})
    return dataclasses.replace(cloud, config=config.model_copy(update={"next_stage": behind}))


def _addresses(clouds: tuple[RoleLaunch, ...], *, stage: int) -> tuple[str, ...]:
    return tuple(
        cloud.address
        for cloud in clouds
        if not isinstance(cloud.config, role_config.CloudRoleConfig) or cloud.config.stage == stage
    )


def moved(launch: TopologyLaunch, role_name: str) -> TopologyLaunch:
    """The same launch with another port for one role; where that is a cloud replica, all who speak to it know."""

    def other_port(role: RoleLaunch) -> RoleLaunch:
        if role.name != role_name:
            return role
        listen = role.config.listen.model_copy(update={"port": ports.any_free(HOST)})
        return dataclasses.replace(role, config=role.config.model_copy(update={"listen": listen}))

    moved_clouds = tuple(other_port(role) for role in launch.clouds)
    clouds = tuple(_chained(role, clouds=moved_clouds) for role in moved_clouds)
    devices = tuple(connected(other_port(role), clouds=clouds) for role in launch.devices)
    return dataclasses.replace(launch, clouds=clouds, devices=devices)


def _role_launch(config: RoleConfig, *, threads: int) -> RoleLaunch:
    return RoleLaunch(
        name=config.name.removeprefix(f"{config.topology}-").removeprefix(f"{names.ROLE_DEVICE}-"),
        config=config.model_copy(update={"torch_threads": threads}),
    )


def _device_ports(places: tuple[plan.DevicePlace, ...], *, wishes: PortWishes, taken: set[int]) -> list[int]:
    chosen = []
    for index, place in enumerate(places):
        if wishes.first is not None and index == 0:
            port = ports.required(HOST, wishes.first, field=_PORT_OPTION)
        elif wishes.as_declared:
            port = ports.preferred(HOST, place.wanted_port, avoid=taken)
        else:
            port = ports.any_free(HOST, avoid=taken)
        chosen.append(_take(taken, port))
    return chosen


def _take(taken: set[int], port: int) -> int:
    taken.add(port)
    return port


def _threads_each(num_processes: int) -> int:
    """Threads of torch per process, so that together they do not fight for the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, cores // num_processes)


def _with_long_names(launch: TopologyLaunch) -> TopologyLaunch:
    """The same launch with role names that are unique among several topologies."""

    def renamed(role: RoleLaunch) -> RoleLaunch:
        return dataclasses.replace(role, name=f"{launch.name}.{role.name}")

    return dataclasses.replace(
        launch,
        clouds=tuple(renamed(role) for role in launch.clouds),
        devices=tuple(renamed(role) for role in launch.devices),
    )
