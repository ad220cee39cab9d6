package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
)

// servePodResources serves kubelet's own PodResources v1 server, with kubelet's rate limit, over what the node holds.
func servePodResources(socket string, node *Node) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	view := &podResourcesView{node}
	server := grpc.NewServer(podResourcesRateLimit())
	podresourcesv1.RegisterPodResourcesListerServer(server, newPodResourcesServer(podresources.PodResourcesProviders{
		Pods: view, Devices: view, Cpus: view, Memory: view, DynamicResources: view,
	}))
	go func() {
		if err := server.Serve(listener); err != nil {
			fmt.Fprintln(os.Stderr, "pod-resources server ended:", err)
			os.Exit(1)
		}
	}()
	return nil
}

// podResourcesView gives kubelet's server the pods and devices of the node, and no CPUs, memory or claims.
type podResourcesView struct{ node *Node }

func (v *podResourcesView) GetPods() []*v1.Pod       { return v.node.activePods() }
func (v *podResourcesView) GetActivePods() []*v1.Pod { return v.node.activePods() }

func (v *podResourcesView) GetPodByName(namespace, name string) (*v1.Pod, bool) {
	for _, pod := range v.node.activePods() {
		if pod.Namespace == namespace && pod.Name == name {
			return pod, true
		}
	}
	return nil, false
}

func (v *podResourcesView) UpdateAllocatedDevices() { v.node.devices.UpdateAllocatedDevices() }

func (v *podResourcesView) GetDevices(podUID, container string) []*podresourcesv1.ContainerDevices {
	return containerDevices(v.node.devices.GetDevices(podUID, container))
}

func (v *podResourcesView) GetAllocatableDevices() []*podresourcesv1.ContainerDevices {
	return containerDevices(v.node.devices.GetAllocatableDevices())
}

func (v *podResourcesView) GetCPUs(string, string) []int64                             { return nil }
func (v *podResourcesView) GetAllocatableCPUs() []int64                                { return nil }
func (v *podResourcesView) GetMemory(string, string) []*podresourcesv1.ContainerMemory { return nil }
func (v *podResourcesView) GetAllocatableMemory() []*podresourcesv1.ContainerMemory    { return nil }
func (v *podResourcesView) GetDynamicResources(*v1.Pod, *v1.Container) []*podresourcesv1.DynamicResource {
	return nil
}

// containerDevices makes one message a device and NUMA node, as kubelet's container manager does.
func containerDevices(instances devicemanager.ResourceDeviceInstances) []*podresourcesv1.ContainerDevices {
	var messages []*podresourcesv1.ContainerDevices
	for resource, devices := range instances {
		for id, device := range devices {
			if device.GetTopology() == nil {
				messages = append(messages, &podresourcesv1.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}})
			}
			for _, numa := range device.GetTopology().GetNodes() {
				messages = append(messages, &podresourcesv1.ContainerDevices{
					ResourceName: resource, DeviceIds: []string{id},
					Topology: &podresourcesv1.TopologyInfo{Nodes: []*podresourcesv1.NUMANode{{ID: numa.GetID()}}},
				})
			}
		}
	}
	return messages
}
