//go:build !kubelet130

package main

import (
	"context"
	_ "unsafe" // for the linkname below

	cadvisorapi "github.com/google/cadvisor/info/v1"
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
	apisgrpc "k8s.io/kubernetes/pkg/kubelet/apis/grpc"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/config"
)

// The public constructor knows one path only, /var/lib/kubelet/device-plugins; the private one takes ours, so that no root is needed.
//
//go:linkname newManagerImpl k8s.io/kubernetes/pkg/kubelet/cm/devicemanager.newManagerImpl
func newManagerImpl(klog.Logger, string, []cadvisorapi.Node, topologymanager.Store) (*devicemanager.ManagerImpl, error)

func newDeviceManager(socket string, topology []cadvisorapi.Node, store topologymanager.Store) (*devicemanager.ManagerImpl, error) {
	return newManagerImpl(klog.Background(), socket, topology, store)
}

func startDeviceManager(
	manager *devicemanager.ManagerImpl, pods func() []*v1.Pod, ready config.SourcesReady,
	containers containermap.ContainerMap, running sets.Set[string],
) error {
	return manager.Start(klog.Background(), pods, ready, containers, running)
}

func addHintProvider(manager topologymanager.Manager, provider topologymanager.HintProvider) {
	manager.AddHintProvider(klog.Background(), provider)
}

func runOptions(manager *devicemanager.ManagerImpl, pod *v1.Pod, container *v1.Container) (*devicemanager.DeviceRunContainerOptions, error) {
	return manager.GetDeviceRunContainerOptions(context.Background(), pod, container)
}

func newPodResourcesServer(providers podresources.PodResourcesProviders) podresourcesv1.PodResourcesListerServer {
	return podresources.NewV1PodResourcesServer(context.Background(), providers)
}

func podResourcesRateLimit() grpc.ServerOption {
	return apisgrpc.WithRateLimiter(context.Background(), "podresources", podresources.DefaultQPS, podresources.DefaultBurstTokens)
}

// dropPlugin makes kubelet end its connection to the resource's plugin, and nothing else.
func dropPlugin(manager *devicemanager.ManagerImpl, resource string) {
	manager.GetWatcherHandler().DeRegisterPlugin(resource, "")
}
