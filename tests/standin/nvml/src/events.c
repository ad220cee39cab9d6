/* Event sets: which GPUs a set listens to, and waiting for the state file to name an event. */
#define _GNU_SOURCE
#include "session.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#define WAIT_STEP_MS 25 /* where the state file's folder cannot be watched */
#define MAX_LISTENED 64

struct listened {
    handle_t gpu;
    u64 types, last_seq;
};

struct event_set {
    struct listened gpus[MAX_LISTENED];
    int count, watch; /* inotify's descriptor, so that an idle wait costs nothing; -1 without */
    struct event_set *next;
};

static struct event_set *sets;

/* The sets themselves stay: a call may still hang in one. */
void event_sets_forget(void) {
    for (; sets; sets = sets->next) {
        if (sets->watch >= 0)
            close(sets->watch);
        sets->watch = -1;
    }
}

/* Watch the folder of the state file, which is replaced by rename. */
static int watch_state(void) {
    char path[4096];
    const char *file = getenv("MORTALGPU_NVML_STATE");
    int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    snprintf(path, sizeof path, "%s", file ? file : "");
    if (watch >= 0 && inotify_add_watch(watch, dirname(path), IN_MOVED_TO | IN_DELETE | IN_CLOSE_WRITE) < 0) {
        close(watch);
        return -1;
    }
    return watch;
}

static void forget_changes(int watch) {
    char changes[4096];
    while (watch >= 0 && read(watch, changes, sizeof changes) > 0)
        continue;
}

EXPORT rc_t nvmlEventSetCreate(event_set_t *set) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    *set = calloc(1, sizeof **set);
    if (*set) {
        **set = (struct event_set){.watch = watch_state(), .next = sets};
        sets = *set;
    }
    return end(*set ? OK : ERR_UNKNOWN);
}

EXPORT rc_t nvmlEventSetFree(event_set_t set) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    for (struct event_set **place = &sets; *place; place = &(*place)->next)
        if (*place == set) {
            *place = set->next;
            break;
        }
    if (set->watch >= 0)
        close(set->watch);
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

static long milliseconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* An event, or why there is none. The driver may go, and rules may come, while the call waits. */
static rc_t answer_of(const char *call, const struct state *state, event_set_t set, struct event_data *data) {
    rc_t answer = driver_answer(state);
    const struct fault *fault = answer == OK ? state_fault(state, call, "", 0) : NULL;
    if (fault)
        return fault->error;
    return answer == OK ? take(state, set, data) : answer;
}

EXPORT rc_t nvmlEventSetWait_v2(event_set_t set, struct event_data *data, unsigned int timeout_ms) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    long left, until = milliseconds_now() + timeout_ms;
    while ((answer = answer_of(__func__, state, set, data)) == ERR_TIMEOUT && (left = until - milliseconds_now()) > 0) {
        breathe(set->watch < 0 && left > WAIT_STEP_MS ? WAIT_STEP_MS : left, set->watch);
        forget_changes(set->watch);
        state = state_now(); /* after forgetting: a change that comes in between wakes the next turn */
    }
    return end(answer);
}

EXPORT rc_t nvmlEventSetWait(event_set_t set, struct event_data *data, unsigned int timeout_ms) {
    return nvmlEventSetWait_v2(set, data, timeout_ms);
}
