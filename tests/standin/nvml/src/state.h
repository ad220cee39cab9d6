/* What the state file says, parsed; and how to read it. The format is documented at the top of state.c. */
#ifndef STANDIN_STATE_H
#define STANDIN_STATE_H

#include "abi.h"

#define MAX_DEVICES 1024
#define MAX_PROCESSES 8192
#define MAX_EVENTS 4096
#define MAX_FAULTS 512
#define TEXT 96

struct device {
    char uuid[TEXT], name[TEXT], bus_id[32], parent[TEXT];
    int is_mig, lost;
    u64 total, reserved, used;
    int minor, numa, utilization, memory_utilization, mig_mode; /* -1: the driver does not support the question */
    unsigned int slot, gi, ci;
    u64 event_types;
};

struct process {
    char device[TEXT], kind[8];
    unsigned int pid;
    u64 used;
    int utilization;
};

struct event {
    char gpu[TEXT];
    u64 seq, type, data;
    unsigned int gi, ci;
};

struct fault {
    char call[TEXT], device[TEXT];
    rc_t error;
    long hang_ms; /* -1: no hang, 0: until the rule leaves the file */
};

struct state {
    char driver_version[TEXT], nvml_version[TEXT];
    int cuda_version, loaded, build;
    u64 generation;
    int device_count, process_count, event_count, fault_count;
    struct device devices[MAX_DEVICES];
    struct process processes[MAX_PROCESSES];
    struct event events[MAX_EVENTS];
    struct fault faults[MAX_FAULTS];
};

/* The newest state; reads the file again when it was replaced. NULL without a file or with one that cannot be parsed. */
const struct state *state_now(void);

/* How many versions of the state were read so far. */
u64 state_version(void);

const struct device *state_device(const struct state *state, const char *uuid);
const struct device *state_gpu_at(const struct state *state, unsigned int index);
const struct device *state_mig_at(const struct state *state, const char *gpu_uuid, unsigned int slot);
/* True when the device itself, or the GPU that a partition belongs to, is lost. */
int state_is_lost(const struct state *state, const struct device *device);
/* The first rule for this call on this device ("" for calls about none); hang selects hangs or errors. */
const struct fault *state_fault(const struct state *state, const char *call, const char *uuid, int hang);

#endif
