/* Initialisation, the lock, faults and handles; and the calls that concern the library as a whole. */
#define _GNU_SOURCE
#include "session.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HANG_STEP_MS 5
#define MAX_NOTED 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int init_count;
static u64 init_generation;
static struct handle handles[MAX_DEVICES];
static int handle_count;

rc_t end(rc_t answer) {
    pthread_mutex_unlock(&lock);
    return answer;
}

const struct state *breathe(long milliseconds, int watch) {
    struct pollfd watched = {.fd = watch, .events = POLLIN};
    pthread_mutex_unlock(&lock);
    poll(&watched, 1, (int)milliseconds); /* a negative descriptor is ignored: a plain pause then */
    pthread_mutex_lock(&lock);
    return state_now();
}

/* Let the tests see that a rule was met: its call goes into <state file>.met, once for each version of the state. */
static void note_met(const char *call) {
    static char noted[MAX_NOTED][TEXT];
    static int count;
    static u64 version;
    char path[4096];
    if (version != state_version())
        count = 0;
    version = state_version();
    for (int i = 0; i < count; i++)
        if (!strcmp(noted[i], call))
            return;
    if (count == MAX_NOTED || snprintf(path, sizeof path, "%s.met", getenv("MORTALGPU_NVML_STATE")) >= (int)sizeof path)
        return;
    snprintf(noted[count++], TEXT, "%s", call);
    FILE *file = fopen(path, "a");
    if (!file)
        return;
    fprintf(file, "%s\n", call);
    fclose(file);
}

/* Sit out a hang, then answer with the rules' error, if any. The lock is held before and after. */
static rc_t obey(const char *call, const char *uuid, const struct state **state) {
    const struct fault *fault;
    for (long waited = 0; *state && (fault = state_fault(*state, call, uuid, 1)); waited += HANG_STEP_MS) {
        note_met(call);
        if (fault->hang_ms && waited >= fault->hang_ms)
            break;
        *state = breathe(HANG_STEP_MS, -1);
    }
    fault = *state ? state_fault(*state, call, uuid, 0) : NULL;
    if (fault)
        note_met(call);
    return fault ? fault->error : OK;
}

/* The library's own build: its digits are written over in a copy, to make another one (tests/standin/nvml/variant.py). */
static volatile const char build_mark[] = "stand-in build 0001";

static int is_of_this_build(const struct state *state) {
    int own = 0;
    for (unsigned int i = sizeof build_mark - 5; i < sizeof build_mark - 1; i++)
        own = own * 10 + (build_mark[i] - '0');
    return !state || !state->build || state->build == own;
}

rc_t driver_answer(const struct state *state) {
    if (!init_count)
        return ERR_UNINITIALIZED;
    if (!is_of_this_build(state))
        return ERR_LIB_RM_VERSION_MISMATCH;
    if (!state || !state->loaded)
        return ERR_DRIVER_NOT_LOADED;
    return state->generation == init_generation ? OK : ERR_UNINITIALIZED;
}

static rc_t check(const char *call, const char *uuid, const struct state **state) {
    rc_t answer = driver_answer(*state);
    if (answer == OK)
        answer = obey(call, uuid, state);
    return answer == OK ? driver_answer(*state) : answer;
}

rc_t begin(const char *call, const struct state **state) {
    pthread_mutex_lock(&lock);
    *state = state_now();
    rc_t answer = check(call, "", state);
    return answer == OK ? OK : end(answer);
}

static rc_t resolve(const struct state *state, handle_t handle, const struct device **device) {
    *device = state_device(state, handle->uuid);
    if (!*device)
        return ERR_INVALID_ARGUMENT;
    return state_is_lost(state, *device) ? ERR_GPU_IS_LOST : OK;
}

rc_t begin_device(const char *call, handle_t handle, const struct state **state, const struct device **device) {
    pthread_mutex_lock(&lock);
    if (handle < handles || handle >= handles + handle_count)
        return end(init_count ? ERR_INVALID_ARGUMENT : ERR_UNINITIALIZED);
    *state = state_now();
    rc_t answer = check(call, handle->uuid, state);
    if (answer == OK)
        answer = resolve(*state, handle, device);
    return answer == OK ? OK : end(answer);
}

/* NULL once as many devices were met as there are handles: none is taken back, as a stale one must still be answered. */
static handle_t handle_of(const char *uuid) {
    for (int i = 0; i < handle_count; i++)
        if (!strcmp(handles[i].uuid, uuid))
            return &handles[i];
    if (handle_count == MAX_DEVICES)
        return NULL;
    snprintf(handles[handle_count].uuid, TEXT, "%s", uuid);
    return &handles[handle_count++];
}

rc_t end_with_handle(const char *call, const struct state *state, const struct device *device, handle_t *handle) {
    *handle = handle_of(device->uuid);
    if (!*handle)
        return end(ERR_INSUFFICIENT_RESOURCES);
    rc_t answer = check(call, (*handle)->uuid, &state);
    if (answer == OK)
        answer = resolve(state, *handle, &device);
    return end(answer);
}

EXPORT rc_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    const struct state *state = state_now();
    rc_t answer = obey("nvmlInitWithFlags", "", &state);
    if (answer == OK && (!state || !state->loaded))
        answer = ERR_DRIVER_NOT_LOADED;
    if (answer == OK && !is_of_this_build(state))
        answer = ERR_LIB_RM_VERSION_MISMATCH;
    if (answer == OK && init_count++ == 0)
        init_generation = state->generation;
    return end(answer);
}

EXPORT rc_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT rc_t nvmlInit(void) { return nvmlInitWithFlags(0); }

EXPORT rc_t nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    const struct state *state = state_now();
    rc_t answer = obey("nvmlShutdown", "", &state);
    if (answer == OK && !init_count)
        answer = ERR_UNINITIALIZED;
    if (answer == OK && --init_count == 0)
        event_sets_forget();
    return end(answer);
}

EXPORT const char *nvmlErrorString(rc_t code) {
    static __thread char text[32];
    snprintf(text, sizeof text, "stand-in error %u", code);
    return text;
}

rc_t copy_text(char *to, unsigned int size, const char *text) {
    return snprintf(to, size, "%s", text) < (int)size ? OK : ERR_INSUFFICIENT_SIZE;
}

EXPORT rc_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    return answer == OK ? end(copy_text(version, length, state->driver_version)) : answer;
}

EXPORT rc_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    return answer == OK ? end(copy_text(version, length, state->nvml_version)) : answer;
}

EXPORT rc_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    const struct state *state;
    rc_t answer = begin(__func__, &state);
    if (answer != OK)
        return answer;
    *version = state->cuda_version;
    return end(OK);
}

EXPORT rc_t nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }
