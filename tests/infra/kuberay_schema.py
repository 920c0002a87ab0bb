"""What KubeRay's custom resources may hold, as far as a user sets it: the fields of ray.io/v1 in KubeRay 1.6.2.

Written by hand from its API reference (docs.ray.io, "KubeRay CRD API reference"; the CRDs themselves are a megabyte of
inlined pod templates). Pod templates are left open here and validated against Kubernetes' own schema instead. Unknown
fields are errors, as with a server's strict validation.
"""

from typing import Any


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


_TEXT, _FLAG, _COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
_ANY = {"type": "object"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}  # rayStartParams are text: 0 without quotes is refused

_AUTOSCALER = _object(
    resources=_ANY,
    image=_TEXT,
    imagePullPolicy=_TEXT,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
    securityContext=_ANY,
    idleTimeoutSeconds=_COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]},
)
_HEAD = _object(
    ("template",),
    template=_ANY,
    rayStartParams=_TEXTS,
    resources=_TEXTS,
    labels=_TEXTS,
    headService=_ANY,
    enableIngress=_FLAG,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
)
_WORKERS = _object(
    ("groupName", "template", "minReplicas", "maxReplicas"),
    groupName=_TEXT,
    template=_ANY,
    rayStartParams=_TEXTS,
    resources=_TEXTS,
    labels=_TEXTS,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    idleTimeoutSeconds=_COUNT,
    numOfHosts={"type": "integer", "minimum": 1},
    scaleStrategy=_ANY,
    suspend=_FLAG,
)
CLUSTER_SPEC = _object(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    suspend=_FLAG,
    managedBy=_TEXT,
    authOptions=_object(mode={"enum": ["disabled", "token"]}, secretName=_TEXT, enableK8sTokenAuth=_FLAG),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_AUTOSCALER,
    headServiceAnnotations=_TEXTS,
    gcsFaultToleranceOptions=_ANY,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
JOB_SPEC = _object(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=_TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=_TEXT,
    runtimeEnvYAML=_TEXT,
    jobId=_TEXT,
    metadata=_TEXTS,
    backoffLimit=_COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterConfig=_object(backoffLimit=_COUNT),
    submitterPodTemplate=_ANY,
    shutdownAfterJobFinishes=_FLAG,
    ttlSecondsAfterFinished=_COUNT,
    suspend=_FLAG,
    managedBy=_TEXT,
    clusterSelector=_TEXTS,
    deletionStrategy=_ANY,
    rayClusterSpec=CLUSTER_SPEC,
)


def schema_of(kind: str) -> dict[str, Any]:
    """The schema of a whole RayCluster or RayJob."""
    return _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=_object(("name",), name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS),
        spec={"RayCluster": CLUSTER_SPEC, "RayJob": JOB_SPEC}[kind],
    )
