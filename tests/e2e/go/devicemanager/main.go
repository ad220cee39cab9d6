// Command devicemanager runs kubelet's own device manager without the rest of kubelet, driven over stdin.
//
// One JSON object a line comes in ({"id", "op", ...}), one a line goes out: {"id", "result"} or {"id", "error"} for a request, {"event", ...}
// for what kubelet's registration server and its plugin clients logged. Admissions run one after the other, as kubelet's are; every other
// request is answered while an admission hangs. Log text goes to stderr. The process ends at the end of stdin, leaving its files behind as
// kubelet does on SIGTERM.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
)

// Request is one line of stdin; which fields count depends on Op.
type Request struct {
	ID    int64     `json:"id"`
	Op    string    `json:"op"`
	Start StartArgs `json:"start"`
	Pod   PodSpec   `json:"pod"`
	UID   string    `json:"uid"`
	// Resource is the one to act on, of "drop".
	Resource string `json:"resource"`
}

// Output serialises the lines of all goroutines onto stdout.
type Output struct {
	mutex   sync.Mutex
	encoder *json.Encoder
}

func (o *Output) write(line map[string]any) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if err := o.encoder.Encode(line); err != nil {
		fmt.Fprintln(os.Stderr, "cannot answer:", err)
		os.Exit(1)
	}
}

func (o *Output) answer(id int64, result any, err error) {
	if err != nil {
		o.write(map[string]any{"id": id, "error": err.Error()})
		return
	}
	o.write(map[string]any{"id": id, "result": result})
}

func main() {
	output := &Output{encoder: json.NewEncoder(os.Stdout)}
	logToStderrAndEvents(output)
	node := newNode()
	admissions := make(chan Request, 10000)
	go func() {
		for request := range admissions {
			output.answer(request.ID, node.admit(request.Pod.kubernetes()), nil)
		}
	}()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var request Request
		if err := json.Unmarshal(lines.Bytes(), &request); err != nil {
			fmt.Fprintln(os.Stderr, "cannot read the request:", err)
			os.Exit(2)
		}
		if request.Op == "admit" {
			admissions <- request
			continue
		}
		result, err := perform(node, request)
		output.answer(request.ID, result, err)
	}
}

func perform(node *Node, request Request) (any, error) {
	if request.Op == "start" {
		return node.start(request.Start)
	}
	if node.devices == nil {
		return nil, fmt.Errorf("%s: the device manager was not started", request.Op)
	}
	switch request.Op {
	case "delete":
		return node.remove(request.UID)
	case "drop":
		dropPlugin(node.devices, request.Resource)
		return request.Resource, nil
	case "capacity":
		return node.capacity(), nil
	case "devices":
		return node.deviceIDs(), nil
	case "holdings":
		return node.holdings(), nil
	}
	return nil, fmt.Errorf("unknown op %q", request.Op)
}
