/*
 * Reads the state file named by the environment variable MORTALGPU_NVML_STATE.
 *
 * One record a line: a word, then fields `key=value`, all separated by single tabs; empty lines and lines that begin with
 * `#` are skipped. A missing key has the default in brackets. Sizes are bytes.
 *
 *   driver   version= nvml= cuda=[0] loaded=[1] generation=[0] build=[0: any]
 *            loaded=0: every call answers DRIVER_NOT_LOADED. A new generation: every call answers UNINITIALIZED until the
 *            library was shut down as often as it was initialised, and initialised again. A build that is not the library's
 *            own: every call answers LIB_RM_VERSION_MISMATCH, as when the kernel module is of another version.
 *   gpu      uuid= name= bus= minor=[0] numa=[-1] total=[0] reserved=[0] used=[0] util=[-1] memutil=[-1]
 *            mig=[-1: not supported, 0: off, 1: on] lost=[0] events=[11: mask of event types; 0: not supported]
 *            The order of the lines is the order of the indices. -1: that question is not supported.
 *   mig      gpu= uuid= name= slot=[0] gi=[0] ci=[0] total=[0] reserved=[0] used=[0]
 *   process  device= pid= kind=[C: letters of C compute, G graphics, M multi-process service] used=[0, or none] util=[-1]
 *   event    seq= gpu= type=xid|ecc_double|ecc_single data=[0] gi=[none] ci=[none]
 *            Each is delivered once, to sets that registered before its seq appeared in the file.
 *   fault    call=[*] device=[*] error=[0] hang=[milliseconds; 0: until the rule leaves the file]
 *            A rule that a call has met is noted in <state file>.met, a line with the call's name.
 *            `call` is the exported name; `device` the UUID that the call is about, `*` means any call, about a device or not.
 *
 * The file is replaced by rename; a change is seen at the next call by its inode and time.
 */
#define _GNU_SOURCE
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct state current;
static int usable;
static struct statx seen;
static u64 version;

/* Our own, because newer C libraries give strtoull a symbol that older ones lack. */
static long long number(const char *text) {
    int negative = *text == '-';
    long long value = 0;
    for (text += negative; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (*text - '0');
    return negative ? -value : value;
}

/* Find `key` among a line's fields, which are separated by NUL and end with an empty one. */
static const char *field(const char *fields, const char *key, const char *missing) {
    size_t length = strlen(key);
    for (; *fields; fields += strlen(fields) + 1)
        if (!strncmp(fields, key, length) && fields[length] == '=')
            return fields + length + 1;
    return missing;
}

static long long numeric(const char *fields, const char *key, long long missing) {
    const char *text = field(fields, key, NULL);
    return text ? number(text) : missing;
}

static void text(char *to, size_t size, const char *fields, const char *key, const char *missing) {
    snprintf(to, size, "%s", field(fields, key, missing));
}

static unsigned int instance(const char *fields, const char *key) {
    return (unsigned int)numeric(fields, key, NO_INSTANCE);
}

static int parse_driver(struct state *state, const char *fields) {
    text(state->driver_version, TEXT, fields, "version", "");
    text(state->nvml_version, TEXT, fields, "nvml", "");
    state->cuda_version = (int)numeric(fields, "cuda", 0);
    state->loaded = (int)numeric(fields, "loaded", 1);
    state->generation = (u64)numeric(fields, "generation", 0);
    state->build = (int)numeric(fields, "build", 0);
    return 1;
}

static int parse_device(struct state *state, const char *fields, int is_mig) {
    if (state->device_count == MAX_DEVICES)
        return 0;
    struct device *device = &state->devices[state->device_count++];
    device->is_mig = is_mig;
    text(device->uuid, TEXT, fields, "uuid", "");
    text(device->name, TEXT, fields, "name", "");
    text(device->bus_id, sizeof device->bus_id, fields, "bus", "");
    text(device->parent, TEXT, fields, "gpu", "");
    device->total = (u64)numeric(fields, "total", 0);
    device->reserved = (u64)numeric(fields, "reserved", 0);
    device->used = (u64)numeric(fields, "used", 0);
    device->minor = (int)numeric(fields, "minor", 0);
    device->numa = (int)numeric(fields, "numa", -1);
    device->utilization = (int)numeric(fields, "util", -1);
    device->memory_utilization = (int)numeric(fields, "memutil", -1);
    device->mig_mode = (int)numeric(fields, "mig", -1);
    device->lost = (int)numeric(fields, "lost", 0);
    device->event_types = (u64)numeric(fields, "events", EVENT_SINGLE_BIT_ECC | EVENT_DOUBLE_BIT_ECC | EVENT_XID);
    device->slot = (unsigned int)numeric(fields, "slot", 0);
    device->gi = (unsigned int)numeric(fields, "gi", 0);
    device->ci = (unsigned int)numeric(fields, "ci", 0);
    return device->uuid[0] != 0;
}

static int parse_process(struct state *state, const char *fields) {
    if (state->process_count == MAX_PROCESSES)
        return 0;
    struct process *process = &state->processes[state->process_count++];
    text(process->device, TEXT, fields, "device", "");
    text(process->kind, sizeof process->kind, fields, "kind", "C");
    process->pid = (unsigned int)numeric(fields, "pid", 0);
    process->used = strcmp(field(fields, "used", "0"), "none") ? (u64)numeric(fields, "used", 0) : NOT_AVAILABLE;
    process->utilization = (int)numeric(fields, "util", -1);
    return process->device[0] != 0;
}

static int parse_event(struct state *state, const char *fields) {
    if (state->event_count == MAX_EVENTS)
        return 0;
    struct event *event = &state->events[state->event_count++];
    const char *type = field(fields, "type", "xid");
    text(event->gpu, TEXT, fields, "gpu", "");
    event->seq = (u64)numeric(fields, "seq", 0);
    event->type = !strcmp(type, "xid") ? EVENT_XID : !strcmp(type, "ecc_double") ? EVENT_DOUBLE_BIT_ECC : EVENT_SINGLE_BIT_ECC;
    event->data = (u64)numeric(fields, "data", 0);
    event->gi = instance(fields, "gi");
    event->ci = instance(fields, "ci");
    return event->seq != 0;
}

static int parse_fault(struct state *state, const char *fields) {
    if (state->fault_count == MAX_FAULTS)
        return 0;
    struct fault *fault = &state->faults[state->fault_count++];
    text(fault->call, TEXT, fields, "call", "*");
    text(fault->device, TEXT, fields, "device", "*");
    fault->error = (rc_t)numeric(fields, "error", 0);
    fault->hang_ms = (long)numeric(fields, "hang", -1);
    return 1;
}

static int parse_record(struct state *state, const char *word, const char *fields) {
    if (!strcmp(word, "driver"))
        return parse_driver(state, fields);
    if (!strcmp(word, "gpu") || !strcmp(word, "mig"))
        return parse_device(state, fields, word[0] == 'm');
    if (!strcmp(word, "process"))
        return parse_process(state, fields);
    if (!strcmp(word, "event"))
        return parse_event(state, fields);
    if (!strcmp(word, "fault"))
        return parse_fault(state, fields);
    return 0;
}

/* Cut one line into NUL-separated fields, in place; `line` has room for two NULs at its end. */
static int parse_line(struct state *state, char *line) {
    size_t length = strlen(line);
    if (!length || line[0] == '#')
        return 1;
    line[length + 1] = 0;
    for (char *tab = line; (tab = strchr(tab, '\t')); tab++)
        *tab = 0;
    return parse_record(state, line, line + strlen(line) + 1);
}

static int parse(struct state *state, FILE *file) {
    char line[4096];
    memset(state, 0, offsetof(struct state, devices));
    state->loaded = 1;
    for (int number_of_line = 1; fgets(line, sizeof line - 2, file); number_of_line++) {
        line[strcspn(line, "\n")] = 0;
        if (!parse_line(state, line)) {
            fprintf(stderr, "nvml stand-in: line %d of the state file cannot be used: %s\n", number_of_line, line);
            return 0;
        }
    }
    return 1;
}

static int unchanged(const struct statx *now) {
    return now->stx_ino == seen.stx_ino && now->stx_mtime.tv_sec == seen.stx_mtime.tv_sec &&
           now->stx_mtime.tv_nsec == seen.stx_mtime.tv_nsec && now->stx_size == seen.stx_size;
}

const struct state *state_now(void) {
    const char *path = getenv("MORTALGPU_NVML_STATE");
    struct statx now;
    if (!path || statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &now))
        return NULL;
    if (!unchanged(&now)) {
        FILE *file = fopen(path, "r");
        /* A real driver needs no new descriptor to answer: a process without any left hears what was so before. */
        if (!file)
            return usable && (errno == EMFILE || errno == ENFILE) ? &current : NULL;
        usable = parse(&current, file);
        fclose(file);
        seen = now;
        version++;
    }
    return usable ? &current : NULL;
}

u64 state_version(void) { return version; }

const struct device *state_device(const struct state *state, const char *uuid) {
    for (int i = 0; i < state->device_count; i++)
        if (!strcmp(state->devices[i].uuid, uuid))
            return &state->devices[i];
    return NULL;
}

const struct device *state_gpu_at(const struct state *state, unsigned int index) {
    for (int i = 0; i < state->device_count; i++)
        if (!state->devices[i].is_mig && index-- == 0)
            return &state->devices[i];
    return NULL;
}

const struct device *state_mig_at(const struct state *state, const char *gpu_uuid, unsigned int slot) {
    for (int i = 0; i < state->device_count; i++) {
        const struct device *device = &state->devices[i];
        if (device->is_mig && device->slot == slot && !strcmp(device->parent, gpu_uuid))
            return device;
    }
    return NULL;
}

int state_is_lost(const struct state *state, const struct device *device) {
    const struct device *gpu = device->is_mig ? state_device(state, device->parent) : device;
    return device->lost || !gpu || gpu->lost;
}

const struct fault *state_fault(const struct state *state, const char *call, const char *uuid, int hang) {
    for (int i = 0; i < state->fault_count; i++) {
        const struct fault *fault = &state->faults[i];
        if ((hang ? fault->hang_ms >= 0 : fault->error != OK) && (!strcmp(fault->call, "*") || !strcmp(fault->call, call)) &&
            (!strcmp(fault->device, "*") || !strcmp(fault->device, uuid)))
            return fault;
    }
    return NULL;
}
