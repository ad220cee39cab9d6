/* The calls that read how much of a device is used, and by whom. */
#define _GNU_SOURCE
#include "session.h"

#include <string.h>
#include <time.h>

EXPORT rc_t nvmlDeviceGetMemoryInfo(handle_t handle, struct memory_v1 *memory) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    memory->total = device->total;
    memory->used = device->used + device->reserved; /* the first version counts what the driver reserves as used */
    memory->free = device->total - memory->used;
    return end(OK);
}

EXPORT rc_t nvmlDeviceGetMemoryInfo_v2(handle_t handle, struct memory_v2 *memory) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    if (memory->version != (sizeof *memory | 2u << 24))
        return end(ERR_VERSION_MISMATCH);
    memory->total = device->total;
    memory->reserved = device->reserved;
    memory->used = device->used;
    memory->free = device->total - device->used - device->reserved;
    return end(OK);
}

EXPORT rc_t nvmlDeviceGetUtilizationRates(handle_t handle, struct utilization *utilization) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    if (device->is_mig || device->mig_mode == 1 || device->utilization < 0)
        return end(ERR_NOT_SUPPORTED);
    utilization->gpu = (unsigned int)device->utilization;
    utilization->memory = (unsigned int)(device->memory_utilization < 0 ? 0 : device->memory_utilization);
    return end(OK);
}

/* A GPU in MIG mode answers for all its partitions together. */
static const struct device *home_of(const struct state *state, const struct process *process, const struct device *asked) {
    const struct device *home = state_device(state, process->device);
    int is_here = home && (home == asked || (home->is_mig && !strcmp(home->parent, asked->uuid)));
    return is_here ? home : NULL;
}

static void fill(struct process_info *info, const struct process *process, const struct device *home) {
    info->pid = process->pid;
    info->used = process->used;
    info->gi = home->is_mig ? home->gi : NO_INSTANCE;
    info->ci = home->is_mig ? home->ci : NO_INSTANCE;
}

static rc_t list(const char *call, handle_t handle, char kind, unsigned int *count, struct process_info *infos) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(call, handle, &state, &device);
    if (answer != OK)
        return answer;
    unsigned int room = infos ? *count : 0, found = 0;
    for (int i = 0; i < state->process_count; i++) {
        const struct process *process = &state->processes[i];
        const struct device *home = home_of(state, process, device);
        if (!home || !strchr(process->kind, kind))
            continue;
        if (found++ < room)
            fill(&infos[found - 1], process, home);
    }
    *count = found;
    return end(found > room ? ERR_INSUFFICIENT_SIZE : OK);
}

#define LISTING(name, kind) \
    EXPORT rc_t name(handle_t handle, unsigned int *count, struct process_info *infos) { \
        return list(__func__, handle, kind, count, infos); \
    }

LISTING(nvmlDeviceGetComputeRunningProcesses_v3, 'C')
LISTING(nvmlDeviceGetComputeRunningProcesses_v2, 'C')
LISTING(nvmlDeviceGetGraphicsRunningProcesses_v3, 'G')
LISTING(nvmlDeviceGetGraphicsRunningProcesses_v2, 'G')
LISTING(nvmlDeviceGetMPSComputeRunningProcesses_v3, 'M')
LISTING(nvmlDeviceGetMPSComputeRunningProcesses_v2, 'M')

static u64 microseconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (u64)now.tv_sec * 1000000 + (u64)now.tv_nsec / 1000;
}

static unsigned int busy(const struct process *process) { return (unsigned int)process->utilization; }

/* One sample, taken now, for each process that kept the device busy. */
EXPORT rc_t nvmlDeviceGetProcessUtilization(handle_t handle, struct process_sample *samples, unsigned int *count, u64 since) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    if (device->is_mig || device->mig_mode == 1)
        return end(ERR_NOT_SUPPORTED);
    u64 now = microseconds_now();
    unsigned int room = samples ? *count : 0, found = 0;
    for (int i = 0; since < now && i < state->process_count; i++) {
        const struct process *process = &state->processes[i];
        if (process->utilization <= 0 || strcmp(process->device, device->uuid))
            continue;
        if (found++ < room)
            samples[found - 1] = (struct process_sample){.pid = process->pid, .timestamp = now, .sm = busy(process)};
    }
    *count = found;
    return end(!found ? ERR_NOT_FOUND : found > room ? ERR_INSUFFICIENT_SIZE : OK);
}
