package main

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ContainerSpec is a container of a pod: its extended resources, and whether it is a sidecar (an init container that keeps running).
type ContainerSpec struct {
	Name      string           `json:"name"`
	Resources map[string]int64 `json:"resources"`
	Sidecar   bool             `json:"sidecar"`
}

// PodSpec is the part of a pod that matters to the device manager.
type PodSpec struct {
	UID            string          `json:"uid"`
	Name           string          `json:"name"`
	Namespace      string          `json:"namespace"`
	InitContainers []ContainerSpec `json:"init_containers"`
	Containers     []ContainerSpec `json:"containers"`
}

func (p PodSpec) kubernetes() *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(p.UID), Name: p.Name, Namespace: p.Namespace}}
	for _, container := range p.InitContainers {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, container.kubernetes())
	}
	for _, container := range p.Containers {
		pod.Spec.Containers = append(pod.Spec.Containers, container.kubernetes())
	}
	return pod
}

func (c ContainerSpec) kubernetes() v1.Container {
	list := v1.ResourceList{}
	for name, count := range c.Resources {
		list[v1.ResourceName(name)] = *resource.NewQuantity(count, resource.DecimalSI)
	}
	container := v1.Container{Name: c.Name, Resources: v1.ResourceRequirements{Limits: list, Requests: list}}
	if c.Sidecar {
		always := v1.ContainerRestartPolicyAlways
		container.RestartPolicy = &always
	}
	return container
}

func allContainers(pod *v1.Pod) []v1.Container {
	return append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
}
