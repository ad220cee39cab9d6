package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// eventOf names the events by the text that kubelet logs for them: at verbosity 2, and the same from 1.30 to 1.36.
var eventOf = map[string]string{
	"Got registration request from device plugin with resource": "registration_requested",
	"Failed to connect to new client":                           "registration_failed",
	"Device plugin connected":                                   "registered",
	"State pushed for device plugin":                            "list_received",
	"ListAndWatch ended unexpectedly for device plugin":         "list_ended",
	"Endpoint became unhealthy":                                 "disconnected",
}

// eventSink is a logr sink that copies every line to stderr and the ones in eventOf to the output.
type eventSink struct{ output *Output }

func logToStderrAndEvents(output *Output) {
	flags := flag.NewFlagSet("klog", flag.ExitOnError)
	klog.InitFlags(flags)
	if err := flags.Set("v", "2"); err != nil {
		panic(err)
	}
	klog.SetLogger(logr.New(&eventSink{output}))
}

func (s *eventSink) Init(logr.RuntimeInfo)                 {}
func (s *eventSink) Enabled(level int) bool                { return level <= 2 }
func (s *eventSink) WithValues(...any) logr.LogSink        { return s }
func (s *eventSink) WithName(string) logr.LogSink          { return s }
func (s *eventSink) Info(_ int, text string, pairs ...any) { s.handle(text, nil, pairs) }
func (s *eventSink) Error(err error, text string, pairs ...any) {
	s.handle(text, err, pairs)
}

func (s *eventSink) handle(text string, err error, pairs []any) {
	now := time.Now()
	fmt.Fprintln(os.Stderr, now.Format("15:04:05.000000"), text, pairs, "err:", err)
	name, known := eventOf[text]
	if !known {
		return
	}
	line := map[string]any{"event": name, "at": float64(now.UnixNano()) / 1e9}
	for index := 0; index+1 < len(pairs); index += 2 {
		switch pairs[index] {
		case "resource", "resourceName":
			line["resource"] = pairs[index+1]
		case "resourceCapacity":
			line["count"] = pairs[index+1]
		}
	}
	if err != nil {
		line["error"] = err.Error()
	}
	s.output.write(line)
}
