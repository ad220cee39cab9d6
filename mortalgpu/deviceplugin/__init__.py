"""kubelet's device plugin API, version v1beta1: one server per resource."""
