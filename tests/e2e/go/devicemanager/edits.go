package main

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
)

// containerEdits asks kubelet for what it would give the runtime when it starts the container (PreStartContainer is called for it, where
// the plugin wants that), and writes it out in plain words.
func containerEdits(manager *devicemanager.ManagerImpl, pod *v1.Pod, container *v1.Container) (map[string]any, error) {
	options, err := runOptions(manager, pod, container)
	if err != nil {
		return nil, err
	}
	edits := map[string]any{}
	if options == nil {
		return edits, nil
	}
	env := map[string]string{}
	for _, variable := range options.Envs {
		env[variable.Name] = variable.Value
	}
	mounts := []map[string]any{}
	for _, mount := range options.Mounts {
		mounts = append(mounts, map[string]any{"host_path": mount.HostPath, "container_path": mount.ContainerPath, "read_only": mount.ReadOnly})
	}
	nodes := []map[string]any{}
	for _, node := range options.Devices {
		nodes = append(nodes, map[string]any{"host_path": node.PathOnHost, "container_path": node.PathInContainer, "permissions": node.Permissions})
	}
	edits["env"], edits["mounts"], edits["devices"] = env, mounts, nodes
	return edits, nil
}
