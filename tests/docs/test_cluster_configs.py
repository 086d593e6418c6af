"""What cluster_configs/ holds is checked like code: against schemas, the command and itself."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from ray_kmeans import cli
from tests.conftest import shared_data
from tests.support.servers import BIN

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings this
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster_configs"
FILES = sorted(set(FOLDER.iterdir()) - {FOLDER / "grafana.json"})  # which starts nothing
CLOUDS = ("aws", "gcp", "azure")
LAUNCHED = [path for path in FILES if path.stem.split("-")[0] in (*CLOUDS, "on")]
KUBERNETES = [path for path in FILES if path.stem.startswith("kuberay")]
SLURM = FOLDER / "slurm.sh"
DOCKERFILE = FOLDER / "Dockerfile"
PAGE = (ROOT / "docs" / "clusters.md").read_text()
SECURITY = (ROOT / "docs" / "guides" / "security.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPILE = "~/venv/bin/ray-kmeans compile"
HEADINGS = ["When", "What", "Cost", "Before", "Start", "Fit", "End"]
PROGRAMS = ("ray", "ray-kmeans", "kubectl", "docker", "sbatch")


def of(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


def first_lines(path):
    """Return what the comment at the top of a file says, by heading."""
    lines = path.read_text().removeprefix("#!/bin/bash\n").splitlines()
    said = {}
    for line in lines:
        if not line.startswith("# "):
            break
        heading = re.match(r"# (\w+):", line)
        if heading:
            said[heading[1]] = []
        said[list(said)[-1]].append(line[10:])
    return {heading: "\n".join(lines) for heading, lines in said.items()}


def commands(text):
    """Return the commands in a text, as lists of words; a line may go on after a backslash."""
    whole = re.sub(r" *\\\n\s*", " ", text)
    lines = [shlex.split(line, comments=True) for line in whole.splitlines() if is_command(line)]
    return [words for words in lines if words]


def is_command(line):
    return line.strip().split(" ")[0] in PROGRAMS


def commands_of(path):
    """Return every command that a file shows or runs."""
    found = commands("\n".join(first_lines(path).values()))
    for document in documents(path) if path in KUBERNETES else []:
        found += commands(document.get("spec", {}).get("entrypoint", ""))
    return found


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def config_of(path):
    """Return a launcher file with all that is left to the user filled in."""
    return yaml.safe_load(re.sub(r"REPLACE_\w+", "filled-in", path.read_text()))


# ---- first lines


@of(FILES)
def test_every_file_says_when_what_for_how_much_and_with_which_commands(path):
    said = first_lines(path)

    assert list(said) == HEADINGS
    assert {heading for heading, text in said.items() if not text.strip()} == set()


@of([path for path in FILES if path not in (SLURM, *KUBERNETES)])
def test_a_cluster_that_is_started_is_ended_by_a_command(path):
    said = first_lines(path)

    for heading in ("Start", "Fit", "End"):
        assert commands(said[heading]), heading
    for heading in ("Start", "End"):
        named = path.name if path != DOCKERFILE else "REPLACE_REGISTRY/ray-kmeans"
        assert any(named in word for word in commands(said[heading])[0])


@of([path for path in LAUNCHED if path.name != "on-premise.yaml"])
def test_a_price_is_one_of_the_region_and_the_machines_of_the_file(path):
    said = {heading: " ".join(text.split()) for heading, text in first_lines(path).items()}
    config = config_of(path)
    region = config["provider"].get("region") or config["provider"]["location"]
    used = json.dumps(config["available_node_types"])

    assert f"(list price of {region}, look it up: prices change)" in said["Cost"]
    for machine in re.findall(r"\((\w+[._-][\w.-]+)[,:]", said["What"]):
        assert re.search(rf'"(Standard_)?{machine}"', used), machine


@of([path for path in LAUNCHED if "with all (list" in " ".join(first_lines(path)["Cost"].split())])
def test_the_price_of_all_is_the_sum(path):
    cost = " ".join(first_lines(path)["Cost"].split())
    head, worker, whole = map(
        float, re.search(r"([\d.]+) USD.* and ([\d.]+) .*: ([\d.]+) with all", cost).groups()
    )

    assert head + config_of(path)["max_workers"] * worker == pytest.approx(whole, abs=0.06)


@of(FILES)
def test_what_is_to_be_filled_in_is_named_in_the_first_lines(path):
    text = path.read_text()
    named = set(re.findall(r"REPLACE_\w+", first_lines(path)["Before"]))

    assert set(re.findall(r"REPLACE_\w+", text)) == named


@of(FILES)
def test_the_page_about_clusters_names_every_file(path):
    assert f"(../cluster_configs/{path.name})" in PAGE


# ---- commands


def misused(words):
    """Return what a command does not take, or ''."""
    if words[0] == "ray":
        return refusal_of_ray(words[1:])
    if words[0] == "ray-kmeans":
        return refusal_of_ours(words[1], words[2:])
    return ""


def refusal_of_ray(words):
    from ray.scripts.scripts import cli as ray

    command, context = ray, click.Context(ray)
    while isinstance(command, click.Group):
        name, *words = words
        command = command.get_command(context, name)
        if command is None:
            return f"no command {name}"
    try:
        made = command.make_context(name, list(words))
    except click.UsageError as error:
        return error.format_message()
    return misused(shlex.split(" ".join(made.params.get("entrypoint", ()))) or ["true"])


def refusal_of_ours(name, words):
    if name not in cli.COMMANDS:
        return f"no command {name}"
    understood = cli.Command(cli.COMMANDS[name].flags, lambda flags: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cli.COMMANDS, name, understood)
        try:
            cli.job(name, words)
        except SystemExit as error:
            return f"refused: {error.code}"
    return ""


@of(FILES)
def test_every_command_is_one_that_its_program_takes(path):
    assert {
        shlex.join(words): misused(words) for words in commands_of(path) if misused(words)
    } == {}


@of(LAUNCHED)
def test_the_commands_on_the_nodes_are_bash_and_their_ray_takes_them(path):
    config = config_of(path)
    keys = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    for line in [line for key in keys for line in config[key]]:
        subprocess.run(["bash", "-n", "-c", line], check=True)
        for part in line.split(";"):
            words = [word for word in shlex.split(part) if not word.startswith("RAY_AUTH_MODE=")]
            assert words[0] != "ray" or misused(words) == ""


def test_the_fit_in_the_slurm_script_is_one_that_the_command_takes():
    [shown] = [words for words in commands(first_lines(SLURM)["Fit"]) if words[0] == "sbatch"]
    body = SLURM.read_text()

    assert 'run ray-kmeans fit "$@"' in body
    assert refusal_of_ours("fit", shown[2:]) == ""


def test_every_command_on_the_page_is_one_that_its_program_takes():
    shown = [words for words in commands(PAGE) if words[0] in ("ray", "ray-kmeans")]

    assert len(shown) >= 4
    assert [words for words in shown if misused(words)] == []


@pytest.mark.parametrize(
    "command",
    [
        "ray up --no-such-flag x.yaml",
        "ray launch x.yaml",
        "ray job submit --adress http://127.0.0.1:8265 -- ray-kmeans fit a b --num-clusters 2",
        "ray job submit --address http://127.0.0.1:8265 -- ray-kmeans fit a b --num-cluster 2",
        "ray-kmeans fit a b --num-clusters many",
        "ray-kmeans fit a --num-clusters 2",
        "ray-kmeans evaluates a b",
    ],
)
def test_a_wrong_command_is_found(command):
    assert misused(shlex.split(command))


# ---- the launcher's files


@of(LAUNCHED)
def test_the_launcher_takes_every_file_of_its_own(path):
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = config_of(path)
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())

    jsonschema.validate(config, schema)
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**copy.deepcopy(config), "setup_command": []}))


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("kind", ["spot", "gpu"])
def test_the_files_of_a_cloud_differ_in_their_workers_alone(cloud, kind):
    plain, other = (config_of(FOLDER / f"{name}.yaml") for name in (cloud, f"{cloud}-{kind}"))

    for config in (plain, other):
        del config["cluster_name"], config["max_workers"]
        del config["available_node_types"]["worker"]
    of_workers = [config.pop("worker_setup_commands") for config in (plain, other)]

    assert plain == other
    install = "~/venv/bin/pip install --quiet ~/ray-kmeans'[gpu]'"
    assert of_workers == [[COMPILE], [install, COMPILE] if kind == "gpu" else [COMPILE]]


@of(LAUNCHED)
def test_every_node_that_computes_compiles_after_the_last_installation(path):
    config = config_of(path)
    lines = config["setup_commands"] + config.get("worker_setup_commands", [])

    assert lines[-1] == COMPILE
    assert misused(["ray-kmeans", "compile"]) == ""


def test_the_image_and_the_slurm_script_say_when_to_compile():
    runs = [rest for kind, rest in instructions() if kind == "RUN"]

    assert runs[-1] == "ray-kmeans compile"
    assert "srun --nodes=1 ray-kmeans compile" in first_lines(SLURM)["Before"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_spot_workers_are_the_ones_of_the_plain_file_at_another_price(cloud):
    marks = {"InstanceMarketOptions", "scheduling", "priority"}
    workers = [
        config_of(FOLDER / f"{name}.yaml")["available_node_types"]["worker"]
        for name in (cloud, f"{cloud}-spot")
    ]
    plain, spot = (w["node_config"].get("azure_arm_parameters", w["node_config"]) for w in workers)

    assert set(spot) - set(plain) <= marks
    assert "spot" in json.dumps({key: spot[key] for key in set(spot) - set(plain)}).lower()
    assert {key: spot[key] for key in plain} == plain


@of([path for path in LAUNCHED if path.stem.split("-")[0] in CLOUDS])
def test_all_workers_of_a_file_start_and_none_beside_them(path):
    config = config_of(path)

    assert config["available_node_types"]["worker"]["min_workers"] == config["max_workers"]
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_ray_makes_nothing_on_aws_that_lets_others_in():
    moto = pytest.importorskip("moto")
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config

    with moto.mock_aws():
        ec2 = boto3.client("ec2", region_name="us-west-2")
        network = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=network, CidrBlock="10.1.0.0/24")["Subnet"]["SubnetId"]
        group = ec2.create_security_group(GroupName="g", Description="d", VpcId=network)["GroupId"]
        before = ec2.describe_security_groups()["SecurityGroups"]
        text = (FOLDER / "aws.yaml").read_text()
        text = text.replace("REPLACE_SUBNET", subnet).replace("REPLACE_SECURITY_GROUP", group)

        made = bootstrap_aws(prepare_config(yaml.safe_load(text)))

        assert ec2.describe_security_groups()["SecurityGroups"] == before
        for kind in made["available_node_types"].values():
            assert kind["node_config"]["SecurityGroupIds"] == [group]
            assert kind["node_config"]["SubnetIds"] == [subnet]


# ---- Kubernetes


def strict(schema):
    """Return a CRD's schema that refuses fields it does not know, but where it keeps them."""
    if schema.get("x-kubernetes-int-or-string"):
        return {}
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        keeps = schema.get("x-kubernetes-preserve-unknown-fields")
        made.setdefault("additionalProperties", bool(keeps))
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = strict(made[key])
    return made


@pytest.fixture(scope="module")
def kuberay_takes():
    """Return the validators of the kinds that we use, by API version and kind."""
    made = {}
    for name in ("rayclusters", "rayjobs"):
        path = shared_data("kuberay_crd") / f"ray.io_{name}.yaml"
        definition = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        for version in definition["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            kind = f"ray.io/{version['name']}", definition["names"]["kind"]
            made[kind] = jsonschema.Draft7Validator(schema)
    return lambda ours: made[ours["apiVersion"], ours["kind"]].validate(ours)


@of(KUBERNETES)
def test_every_manifest_is_one_that_kuberay_takes(kuberay_takes, path):
    ours, *others = documents(path)

    kuberay_takes(ours)
    assert {other["kind"] for other in others} <= {"NetworkPolicy", "Service", "StatefulSet"}


@pytest.mark.parametrize("place", [(), ("headGroupSpec",), ("headGroupSpec", "template", "spec")])
def test_a_field_that_kuberay_does_not_know_is_found(kuberay_takes, place):
    ours = documents(FOLDER / "kuberay.yaml")[0]
    inner = ours["spec"]
    for name in place:
        inner = inner[name]
    inner["noSuchField"] = 1

    with pytest.raises(jsonschema.ValidationError, match="noSuchField"):
        kuberay_takes(ours)


def test_a_field_is_kept_where_the_schema_keeps_what_it_does_not_know():
    keeps = {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True}
    schema = strict({"type": "object", "properties": {"open": keeps}})

    jsonschema.validate({"open": {"any": 1}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"opened": {}}, schema)


# ---- secrets and open doors

SECRETS = [
    r"AKIA[0-9A-Z]{16}",
    r"BEGIN [A-Z ]*PRIVATE KEY",
    r"(?i)(secret|password|token|access_key|account_key)[\w-]*['\"]?\s*[:=]\s*['\"]?[\w+/]{12,}",
    r"(?i)kind: Secret",
]
OPENINGS = [
    r"0\.0\.0\.0",
    r"::/0",
    r"(?i)IpPermissions|accessConfigs:|hostNetwork|hostPort|LoadBalancer|NodePort",
    r"use_internal_ips: false|RAY_AUTH_MODE=disabled|mode: disabled",
]


def found(patterns, text):
    return [match[0] for pattern in patterns for match in re.finditer(pattern, text)]


@of(FILES)
def test_no_file_holds_a_secret(path):
    assert found(SECRETS, path.read_text()) == []


@of(FILES)
def test_no_file_opens_anything_to_everyone(path):
    assert found(OPENINGS, path.read_text()) == []


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        (SECRETS, "AWS_SECRET_ACCESS_KEY: abcdefghijklmnop"),
        (SECRETS, "RAY_AUTH_TOKEN=0123456789abcdef"),
        (SECRETS, "kind: Secret"),
        (OPENINGS, "ray start --head --dashboard-host=0.0.0.0"),
        (OPENINGS, "serviceType: LoadBalancer"),
    ],
)
def test_a_secret_or_an_opening_is_found(patterns, text):
    assert found(patterns, text)


@of(LAUNCHED)
def test_a_launched_cluster_asks_for_the_token_and_shows_its_dashboard_to_its_head_alone(path):
    config = config_of(path)
    [head] = [line for line in config["head_start_ray_commands"] if "--head" in line]
    [worker] = [line for line in config["worker_start_ray_commands"] if "--address" in line]

    assert "--dashboard-host=127.0.0.1" in shlex.split(head)
    assert "RAY_AUTH_MODE=token ray start" in head
    assert "RAY_AUTH_MODE=token ray start" in worker
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    if path.name != "on-premise.yaml":
        assert config["provider"]["use_internal_ips"] is True


@of(KUBERNETES)
def test_a_cluster_in_kubernetes_asks_for_the_token_and_for_secrets_by_reference(path):
    ours, *others = documents(path)
    spec = ours["spec"].get("rayClusterSpec", ours["spec"])
    pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    pods = [pod["template"]["spec"] for pod in pods]

    assert spec["authOptions"] == {"mode": "token"}
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "ray-kmeans-store"}}]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert "NetworkPolicy" in {other["kind"] for other in others}


@of(KUBERNETES)
def test_a_policy_of_a_cluster_is_about_its_own_pods_alone(path):
    """Two clusters in one namespace: neither replaces the other's policy, nor is under it."""
    ours, *others = documents(path)
    spec = ours["spec"].get("rayClusterSpec", ours["spec"])
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    own = {"app": ours["metadata"]["name"]}

    assert [group["template"]["metadata"]["labels"] for group in groups] == [own] * len(groups)
    policies = {
        each["metadata"]["name"]: each["spec"] for each in others if each["kind"] == "NetworkPolicy"
    }
    assert policies[own["app"]]["podSelector"] == {"matchLabels": own}
    for name, policy in policies.items():
        assert policy["podSelector"] == {"matchLabels": {"app": name}}


def test_no_two_files_name_anything_alike():
    named = [
        (each["kind"], each["metadata"]["name"]) for path in KUBERNETES for each in documents(path)
    ]

    assert len(set(named)) == len(named)


def ports_of(path):
    """Return the ports that the commands of a file name, as they name them."""
    text = path.read_text().replace("--min-worker-port=", "--worker-port=")
    text = re.sub(r"--worker-port=(\d+)\s+--max-worker-port=", r"--worker-port=\1-", text)
    ports = set(re.findall(r"port=([\d-]+)", text.partition("Number")[0] + text))
    return ports | set(re.findall(r"(?:containerPort|\bport): (\d+)", text))


@of([path for path in FILES if path != DOCKERFILE])
def test_the_page_lists_every_port_that_a_file_names(path):
    rows = re.findall(r"^\| ([\d, -]+) \|", SECURITY, re.M)
    listed = set(re.findall(r"[\d-]+", " ".join(rows)))

    assert ports_of(path) - listed == set()


def test_launched_clusters_name_all_their_ports():
    for path in LAUNCHED:
        assert ports_of(path) >= {"6379", "6380", "6381", "10002-10999"}


# ---- versions


def ray_versions(text):
    """Return every version of Ray that a text names."""
    return set(
        re.findall(
            r"(?:ray\[default\]==|RAY_VERSION=|rayVersion: |rayproject/ray:)(\d[\d.]+)", text
        )
    )


def test_one_version_of_ray_everywhere_and_one_that_the_package_takes():
    texts = [path.read_text() for path in FILES] + [PAGE]
    [version] = set().union(*map(ray_versions, texts))
    [needed] = [r for r in map(Requirement, PYPROJECT["dependencies"]) if r.name == "ray"]

    assert needed.specifier.contains(version)
    assert Version(version) >= Version("2.52")  # the first with tokens
    for path in [*LAUNCHED, *KUBERNETES, DOCKERFILE]:
        assert ray_versions(path.read_text()) == {version}


def test_images_are_of_the_version_of_the_package():
    texts = "".join(path.read_text() for path in [DOCKERFILE, *KUBERNETES])
    tags = set(re.findall(r"/ray-kmeans:([\w.-]+)", texts))

    assert tags == {PYPROJECT["version"], f"{PYPROJECT['version']}-gpu"}


@of(FILES)
def test_the_extras_that_are_installed_exist(path):
    asked = re.findall(r"(?:ray-kmeans'|ray-kmeans|'\.|\.)\[([\w,]+)\]", path.read_text())
    names = {name for each in asked for name in each.split(",")}

    assert names <= set(PYPROJECT["optional-dependencies"])
    assert names or path in KUBERNETES


# ---- the script and the image


def test_the_slurm_script_is_bash():
    subprocess.run(["bash", "-n", SLURM], check=True)


def test_shellcheck_finds_nothing_in_the_slurm_script():
    shellcheck = shutil.which("shellcheck", path=f"{BIN}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, SLURM], capture_output=True, text=True, check=False)

    assert done.stdout == ""


def test_no_option_of_slurm_stands_below_the_first_command():
    lines = SLURM.read_text().splitlines()
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))

    assert max(options) < first


def instructions():
    """Return the instructions of the Dockerfile, as (name, rest)."""
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text()).splitlines()
    return [line.split(" ", 1) for line in lines if line and not line.startswith("#")]


def test_the_image_copies_all_that_the_package_is_built_of_and_nothing_more():
    copied = {
        name
        for kind, rest in instructions()
        if kind in ("COPY", "ADD")
        for name in rest.split()[:-1]
        if not name.startswith("--")
    }

    assert copied == {
        "pyproject.toml",
        "ray_kmeans",
        PYPROJECT["readme"],
        *PYPROJECT["license-files"],
    }
    assert {name for name in copied if not (ROOT / name).exists()} == set()


def test_the_image_is_built_of_what_it_copies_and_of_no_data_or_keys_beside_it():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    copied = {"pyproject.toml", "ray_kmeans", PYPROJECT["readme"], *PYPROJECT["license-files"]}

    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


def test_the_image_has_all_that_a_command_needs():
    """What an error of a command tells to install is there; TensorFlow's SavedModels are not."""
    [installed, _] = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE.read_text())

    wanted = set(PYPROJECT["optional-dependencies"]) - {
        "test",
        "docs",
        "gpu",
        "tensorflow",
        "sklearn",
    }
    assert set(installed.split(",")) == wanted


def test_the_image_is_not_run_by_root_and_takes_every_store():
    users = [rest for kind, rest in instructions() if kind == "USER"]
    installed, of_gpus = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE.read_text())

    assert users == ["1000:100"]
    assert {"s3", "gcs", "azure", "jobs"} <= set(installed.split(","))
    assert of_gpus == "gpu"


def test_the_image_for_gpus_is_another_build_of_the_same_file():
    arguments = [rest for kind, rest in instructions() if kind == "ARG"]
    [base] = [rest for kind, rest in instructions() if kind == "FROM"]

    assert {"PLATFORM=cpu", "PLATFORM"} < set(
        arguments
    )  # the second one: for what comes after FROM
    assert base == "rayproject/ray:${RAY_VERSION}-py312-${PLATFORM}"
    assert "--build-arg PLATFORM=gpu" in first_lines(DOCKERFILE)["Start"]
