/* Event sets: which GPUs a set listens to, and waiting for the state file to name an event. */
#define _GNU_SOURCE
#include "session.h"

#include <stdlib.h>
#include <string.h>

#define WAIT_STEP_MS 10
#define MAX_LISTENED 64

struct listened {
    handle_t gpu;
    u64 types, last_seq;
};

struct event_set {
    struct listened gpus[MAX_LISTENED];
    int count;
};

EXPORT rc_t nvmlEventSetCreate(event_set_t *set) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    *set = calloc(1, sizeof **set);
    return end(*set ? OK : ERR_UNKNOWN);
}

EXPORT rc_t nvmlEventSetFree(event_set_t set) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    free(set);
    return end(OK);
}

EXPORT rc_t nvmlDeviceGetSupportedEventTypes(handle_t handle, u64 *types) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    *types = device->event_types;
    return end(device->is_mig ? ERR_NOT_SUPPORTED : OK);
}

static u64 newest_seq(const struct state *state) {
    u64 newest = 0;
    for (int i = 0; i < state->event_count; i++)
        if (state->events[i].seq > newest)
            newest = state->events[i].seq;
    return newest;
}

/* Where the set keeps this GPU: registering twice replaces. */
static struct listened *place_of(event_set_t set, handle_t gpu) {
    for (int i = 0; i < set->count; i++)
        if (set->gpus[i].gpu == gpu)
            return &set->gpus[i];
    return set->count < MAX_LISTENED ? &set->gpus[set->count++] : NULL;
}

EXPORT rc_t nvmlDeviceRegisterEvents(handle_t handle, u64 types, event_set_t set) {
    const struct state *state;
    const struct device *device;
    rc_t answer = begin_device(__func__, handle, &state, &device);
    if (answer != OK)
        return answer;
    if (device->is_mig || (types & ~device->event_types) || !device->event_types)
        return end(ERR_NOT_SUPPORTED);
    struct listened *listened = place_of(set, handle);
    if (!listened)
        return end(ERR_UNKNOWN);
    *listened = (struct listened){.gpu = handle, .types = types, .last_seq = newest_seq(state)};
    return end(OK);
}

/* The oldest event that this GPU has not delivered to the set yet. */
static const struct event *next_event(const struct state *state, const struct listened *listened) {
    const struct event *oldest = NULL;
    for (int i = 0; i < state->event_count; i++) {
        const struct event *event = &state->events[i];
        if (event->seq > listened->last_seq && (event->type & listened->types) && !strcmp(event->gpu, listened->gpu->uuid) &&
            (!oldest || event->seq < oldest->seq))
            oldest = event;
    }
    return oldest;
}

static rc_t take(const struct state *state, event_set_t set, struct event_data *data) {
    for (int i = 0; i < set->count; i++) {
        struct listened *listened = &set->gpus[i];
        const struct device *gpu = state_device(state, listened->gpu->uuid);
        const struct event *event = next_event(state, listened);
        if (event) {
            listened->last_seq = event->seq;
            *data = (struct event_data){listened->gpu, event->type, event->data, event->gi, event->ci};
            return OK;
        }
        if (!gpu || gpu->lost)
            return ERR_GPU_IS_LOST;
    }
    return ERR_TIMEOUT;
}

EXPORT rc_t nvmlEventSetWait_v2(event_set_t set, struct event_data *data, unsigned int timeout_ms) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    unsigned int waited = 0;
    for (; waited <= timeout_ms && (answer = take(state, set, data)) == ERR_TIMEOUT; waited += WAIT_STEP_MS) {
        state = breathe(WAIT_STEP_MS);
        if ((answer = driver_answer(state)) != OK)
            return end(answer);
        const struct fault *fault = state_fault(state, __func__, "", 0);
        if (fault)
            return end(fault->error);
    }
    return end(answer);
}

EXPORT rc_t nvmlEventSetWait(event_set_t set, struct event_data *data, unsigned int timeout_ms) {
    return nvmlEventSetWait_v2(set, data, timeout_ms);
}
