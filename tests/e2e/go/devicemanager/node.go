package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
)

// StartArgs says where the device manager lives and what it finds there.
type StartArgs struct {
	SocketDir          string `json:"socket_dir"`
	PodResourcesSocket string `json:"pod_resources_socket"`
	TopologyPolicy     string `json:"topology_policy"`
	NUMANodes          []int  `json:"numa_nodes"`
	// Pods are those that kubelet knew before it restarted; they are admitted again, before any plugin can have registered.
	Pods []PodSpec `json:"pods"`
	// ContainersRunning says whether the runtime still runs the containers of Pods (a kubelet restart) or not (a reboot).
	ContainersRunning bool `json:"containers_running"`
}

// Holding is what one container got: ids by resource, and what the plugin put into it.
type Holding struct {
	Pod       string              `json:"pod"`
	Container string              `json:"container"`
	IDs       map[string][]string `json:"ids"`
	Edits     map[string]any      `json:"edits,omitempty"`
}

// Admission is kubelet's verdict about a pod, in the words that land in its status.
type Admission struct {
	UID      string    `json:"uid"`
	Admitted bool      `json:"admitted"`
	Reason   string    `json:"reason"`
	Message  string    `json:"message"`
	Holdings []Holding `json:"holdings"`
}

// Node keeps the pods that kubelet would keep and hands them to the device manager.
type Node struct {
	mutex        sync.Mutex
	pods         []*v1.Pod
	sourcesReady atomic.Bool
	devices      *devicemanager.ManagerImpl
	topology     topologymanager.Manager
}

func newNode() *Node { return &Node{} }

// AddSource and AllReady are kubelet's SourcesReady.
func (n *Node) AddSource(string) {}

// AllReady is true once the pods known before the start were admitted again.
func (n *Node) AllReady() bool { return n.sourcesReady.Load() }

func (n *Node) start(args StartArgs) ([]Admission, error) {
	if n.devices != nil {
		return nil, errors.New("start: already started; end the process to stop the device manager")
	}
	var topology []cadvisorapi.Node
	for _, id := range args.NUMANodes {
		topology = append(topology, cadvisorapi.Node{Id: id})
	}
	var err error
	if n.topology, err = topologymanager.NewManager(topology, args.TopologyPolicy, "container", nil); err != nil {
		return nil, err
	}
	if n.devices, err = newDeviceManager(args.SocketDir+"/kubelet.sock", topology, n.topology); err != nil {
		return nil, err
	}
	addHintProvider(n.topology, n.devices)
	containers, running := containermap.NewContainerMap(), sets.New[string]()
	for _, pod := range args.Pods {
		for index, container := range append(slices.Clone(pod.InitContainers), pod.Containers...) {
			id := pod.UID + "/" + container.Name
			containers.Add(pod.UID, container.Name, id)
			if finished := index < len(pod.InitContainers) && !container.Sidecar; args.ContainersRunning && !finished {
				running.Insert(id)
			}
		}
	}
	if err = startDeviceManager(n.devices, n.activePods, n, containers, running); err != nil {
		return nil, err
	}
	if args.PodResourcesSocket != "" {
		if err = servePodResources(args.PodResourcesSocket, n); err != nil {
			return nil, err
		}
	}
	admissions := []Admission{}
	for _, pod := range args.Pods {
		admissions = append(admissions, n.admit(pod.kubernetes()))
	}
	n.sourcesReady.Store(true)
	return admissions, nil
}

func (n *Node) activePods() []*v1.Pod {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	return slices.Clone(n.pods)
}

// admit adds the pod, as kubelet does, before it asks the topology manager, and forgets it when that refuses.
func (n *Node) admit(pod *v1.Pod) Admission {
	n.mutex.Lock()
	n.pods = append(n.pods, pod)
	n.mutex.Unlock()
	verdict := n.topology.Admit(&lifecycle.PodAdmitAttributes{Pod: pod, OtherPods: n.activePods()})
	admission := Admission{UID: string(pod.UID), Admitted: verdict.Admit, Reason: verdict.Reason, Message: verdict.Message, Holdings: []Holding{}}
	if !verdict.Admit {
		_, _ = n.remove(string(pod.UID))
		return admission
	}
	for _, container := range allContainers(pod) {
		holding := n.holding(pod, container.Name)
		edits, err := containerEdits(n.devices, pod, &container)
		if err != nil {
			admission.Admitted, admission.Reason, admission.Message = false, "CreateContainerConfigError", err.Error()
			break
		}
		holding.Edits = edits
		admission.Holdings = append(admission.Holdings, holding)
	}
	return admission
}

func (n *Node) remove(uid string) (any, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	before := len(n.pods)
	n.pods = slices.DeleteFunc(n.pods, func(pod *v1.Pod) bool { return string(pod.UID) == uid })
	if len(n.pods) == before {
		return nil, fmt.Errorf("delete: no pod with uid %q", uid)
	}
	return uid, nil
}

func (n *Node) holding(pod *v1.Pod, container string) Holding {
	holding := Holding{Pod: string(pod.UID), Container: container, IDs: map[string][]string{}}
	for resource, devices := range n.devices.GetDevices(string(pod.UID), container) {
		for id := range devices {
			holding.IDs[resource] = append(holding.IDs[resource], id)
		}
		slices.Sort(holding.IDs[resource])
	}
	return holding
}

// holdings lists what every container of every active pod holds, after kubelet's lazy freeing.
func (n *Node) holdings() []Holding {
	n.devices.UpdateAllocatedDevices()
	holdings := []Holding{}
	for _, pod := range n.activePods() {
		for _, container := range allContainers(pod) {
			holdings = append(holdings, n.holding(pod, container.Name))
		}
	}
	return holdings
}

// capacity is what kubelet would write into the node's status: [capacity, allocatable] of each resource.
func (n *Node) capacity() map[string][2]int64 {
	capacity, allocatable, _ := n.devices.GetCapacity()
	counts := map[string][2]int64{}
	for name, quantity := range capacity {
		free := allocatable[name]
		counts[string(name)] = [2]int64{quantity.Value(), free.Value()}
	}
	return counts
}

// deviceIDs lists the healthy ids of each resource.
func (n *Node) deviceIDs() map[string][]string {
	ids := map[string][]string{}
	for resource, devices := range n.devices.GetAllocatableDevices() {
		for id := range devices {
			ids[resource] = append(ids[resource], id)
		}
		slices.Sort(ids[resource])
	}
	return ids
}
