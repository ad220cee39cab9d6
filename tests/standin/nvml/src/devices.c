/* The calls that find devices and describe them. */
#define _GNU_SOURCE
#include "session.h"

#include <string.h>

#define MIB (1024ull * 1024ull)

/* A signed figure of the state file, in which a negative one means that the driver does not support the question. */
static rc_t copy_figure(unsigned int *to, int figure) {
    if (figure < 0)
        return ERR_NOT_SUPPORTED;
    *to = (unsigned int)figure;
    return OK;
}

EXPORT rc_t nvmlDeviceGetCount_v2(unsigned int *count) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    for (*count = 0; state_gpu_at(state, *count);)
        ++*count;
    return end(OK);
}

EXPORT rc_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, handle_t *handle) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    const struct device *device = state_gpu_at(state, index);
    return device ? end_with_handle(__func__, state, device, handle) : end(ERR_INVALID_ARGUMENT);
}

EXPORT rc_t nvmlDeviceGetHandleByUUID(const char *uuid, handle_t *handle) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    const struct device *device = state_device(state, uuid);
    return device ? end_with_handle(__func__, state, device, handle) : end(ERR_NOT_FOUND);
}

EXPORT rc_t nvmlDeviceGetUUID(handle_t handle, char *uuid, unsigned int length) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    return answer == OK ? end(copy_text(uuid, length, device->uuid)) : answer;
}

EXPORT rc_t nvmlDeviceGetName(handle_t handle, char *name, unsigned int length) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    return answer == OK ? end(copy_text(name, length, device->name)) : answer;
}

EXPORT rc_t nvmlDeviceGetMinorNumber(handle_t handle, unsigned int *minor) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    return answer == OK ? end(copy_figure(minor, device->is_mig ? -1 : device->minor)) : answer;
}

EXPORT rc_t nvmlDeviceGetNumaNodeId(handle_t handle, unsigned int *node) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    return answer == OK ? end(copy_figure(node, device->is_mig ? -1 : device->numa)) : answer;
}

EXPORT rc_t nvmlDeviceGetPciInfo_v3(handle_t handle, struct pci_info *pci) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    memset(pci, 0, sizeof *pci);
    return end(device->bus_id[0] ? copy_text(pci->bus_id, sizeof pci->bus_id, device->bus_id) : ERR_NOT_SUPPORTED);
}

EXPORT rc_t nvmlDeviceGetMigMode(handle_t handle, unsigned int *now, unsigned int *pending) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    answer = copy_figure(now, device->mig_mode);
    *pending = answer == OK ? *now : 0;
    return end(answer);
}

EXPORT rc_t nvmlDeviceGetMaxMigDeviceCount(handle_t handle, unsigned int *count) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    *count = device->mig_mode >= 0 ? 7 : 0;
    return end(OK);
}

EXPORT rc_t nvmlDeviceGetMigDeviceHandleByIndex(handle_t handle, unsigned int slot, handle_t *mig) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    if (device->mig_mode != 1)
        return end(ERR_INVALID_ARGUMENT);
    device = state_mig_at(state, device->uuid, slot);
    return device ? end_with_handle(__func__, state, device, mig) : end(ERR_NOT_FOUND);
}

EXPORT rc_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle_t mig, handle_t *handle) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, mig, &state, &device);
    if (answer != OK)
        return answer;
    device = device->is_mig ? state_device(state, device->parent) : NULL;
    return device ? end_with_handle(__func__, state, device, handle) : end(ERR_INVALID_ARGUMENT);
}

EXPORT rc_t nvmlDeviceIsMigDeviceHandle(handle_t handle, unsigned int *is_mig) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    *is_mig = (unsigned int)device->is_mig;
    return end(OK);
}

EXPORT rc_t nvmlDeviceGetGpuInstanceId(handle_t handle, unsigned int *gi) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    return answer == OK ? end(copy_figure(gi, device->is_mig ? (int)device->gi : -1)) : answer;
}

EXPORT rc_t nvmlDeviceGetComputeInstanceId(handle_t handle, unsigned int *ci) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    return answer == OK ? end(copy_figure(ci, device->is_mig ? (int)device->ci : -1)) : answer;
}

EXPORT rc_t nvmlDeviceGetAttributes_v2(handle_t handle, struct attributes *attributes) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    memset(attributes, 0, sizeof *attributes);
    attributes->memory_mib = device->total / MIB;
    return end(device->is_mig ? OK : ERR_NOT_SUPPORTED);
}
