"""A whole Kubernetes cluster of one node: etcd, API server, scheduler, controllers, kubelet, containerd; and Helm beside it."""
