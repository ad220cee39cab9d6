/* What every exported call goes through: the lock, the initialisation count, the rules of failure, the handles. */
#ifndef STANDIN_SESSION_H
#define STANDIN_SESSION_H

#include "state.h"

#define EXPORT __attribute__((visibility("default")))

struct handle {
    char uuid[TEXT];
};

/*
 * Begin a call. With OK the lock is held and `state` is filled; anything else is the answer, and the lock is free. A rule
 * that makes the call hang is sat out here, without the lock.
 */
rc_t begin(const char *call, const struct state **state);

/* The same for a call about a device: also finds it, and refuses stale handles and lost GPUs. */
rc_t begin_device(const char *call, handle_t handle, const struct state **state, const struct device **device);

/* End a call that began with OK, with this answer. */
rc_t end(rc_t answer);

/* Within a call: apply the rules for this device, and answer with its handle. Ends the call. */
rc_t end_with_handle(const char *call, const struct state *state, const struct device *device, handle_t *handle);

/*
 * Within a call: let others run for so long, or until `watch` (-1: nothing) becomes readable. Returns the newest state, or
 * NULL when there is none any more.
 */
const struct state *breathe(long milliseconds, int watch);

/* Within a call: may the driver be used? OK or why not. */
rc_t driver_answer(const struct state *state);

/* At the end of the last session: let go of what the event sets hold, which nobody may use any more. */
void event_sets_forget(void);

/* Copy a text into the caller's buffer, or say that it is too small. */
rc_t copy_text(char *to, unsigned int size, const char *text);

#endif
