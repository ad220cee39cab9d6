/* A tenant's program in its container: root there, with the runtime's default rights, and nothing of the host.
 *
 *   intruder guise NAME ARGUMENT...     exec itself under other names, sleep
 *   intruder leave POD CONTAINER        mount the unified hierarchy in a user namespace of its own, go to another's path
 *   intruder headless POD CONTAINER     the same, and let the first thread end
 *   intruder burrow                     nest cgroups of its own so deep that the kernel cannot write the path
 *   intruder below POD CONTAINER        nest another's path below its own cgroup
 *   intruder chain MILLISECONDS         fork, live so long, end; the child does the same, for ever
 *   intruder brood MILLISECONDS         stay, and fork a sleeping child as often as that
 *   intruder storm                      exec itself without end
 *   intruder bomb COUNT                 fork so many sleeping children
 *   intruder orphan                     leave its parent and session, for user, pid and cgroup namespaces of its own
 *   intruder vfork                      lend its memory to a child that never gives it back
 *   intruder twin                       share its memory with a child that is no thread
 *   intruder traced                     stop a child of its own in the middle of its end
 *   intruder hydra COUNT                let the first thread end, and so many others live
 *
 * A line on standard output tells what came of it; then it sleeps. What cannot be done is told, and is no success.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void rest(long milliseconds) {
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&left, NULL);
}

static void tell(const char *what) {
    printf("%s\n", what);
    fflush(stdout);
}

static void stay(void) {
    for (;;) rest(1000000);
}

static void fail(const char *what) {
    printf("cannot %s: %s\n", what, strerror(errno));
    fflush(stdout);
    stay();
}

static void put(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    if (file < 0 || write(file, text, strlen(text)) < 0) fail(path);
    close(file);
}

static void mount_cgroups(const char *kind, const char *options) {
    uid_t user = getuid();
    char map[64];
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP) != 0) fail("unshare");
    snprintf(map, sizeof map, "0 %d 1", (int)user);
    put("/proc/self/setgroups", "deny");
    put("/proc/self/uid_map", map);
    put("/proc/self/gid_map", map);
    if (mkdir("/tmp/cgroups", 0755) != 0 && errno != EEXIST) fail("mkdir /tmp/cgroups");
    if (mount("none", "/tmp/cgroups", kind, 0, options) != 0) fail("mount");
    if (chdir("/tmp/cgroups") != 0) fail("chdir");
}

static void join_here(void) {
    char text[32];
    snprintf(text, sizeof text, "%d", (int)getpid());
    put("cgroup.procs", text);
}

static void go_down(const char *name) {
    if (mkdir(name, 0755) != 0 && errno != EEXIST) fail("mkdir in cgroups");
    if (chdir(name) != 0) fail("chdir in cgroups");
}

static void go_to(const char *pod, const char *container) {
    char element[256];
    go_down("kubepods");
    go_down("burstable");
    snprintf(element, sizeof element, "pod%s", pod);
    go_down(element);
    go_down(container);
    join_here();
}

static void mount_own(void) {
    /* v1 where there is one: that is what says where a container is. */
    if (access("/proc/self/cgroup", R_OK) == 0) {
        char text[8192] = "";
        int file = open("/proc/self/cgroup", O_RDONLY);
        ssize_t size = read(file, text, sizeof text - 1);
        close(file);
        if (size > 0 && strstr(text, ":memory:")) {
            mount_cgroups("cgroup", "memory");
            return;
        }
    }
    mount_cgroups("cgroup2", NULL);
}

static void *sleeper(void *nothing) {
    (void)nothing;
    stay();
    return NULL;
}

static void behead(int threads) {
    pthread_attr_t small;
    pthread_t other;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    for (int left = threads; left > 0; left--)
        if (pthread_create(&other, &small, sleeper, NULL) != 0) fail("make a thread");
    tell("done");
    pthread_exit(NULL);
}

static void orphan(void) {
    if (fork() != 0) _exit(0);
    setsid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWCGROUP) != 0) fail("unshare");
    if (fork() != 0) _exit(0);
    tell(getpid() == 1 ? "done" : "not the first of its namespace");
}

static int twin(void *nothing) {
    (void)nothing;
    tell("done");
    stay();
    return 0;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    signal(SIGCHLD, SIG_IGN);
    if (!strcmp(mode, "guise") && argc > 2) {
        prctl(PR_SET_NAME, argv[2]);
        prctl(PR_SET_DUMPABLE, 0);
        tell("done");
    } else if (!strcmp(mode, "leave")) {
        mount_cgroups("cgroup2", NULL);
        go_to(argv[2], argv[3]);
        tell("done");
    } else if (!strcmp(mode, "headless")) {
        mount_cgroups("cgroup2", NULL);
        go_to(argv[2], argv[3]);
        behead(1);
    } else if (!strcmp(mode, "hydra")) {
        behead(atoi(argv[2]));
    } else if (!strcmp(mode, "orphan")) {
        orphan();
    } else if (!strcmp(mode, "vfork")) {
        if (vfork() == 0) twin(NULL);
    } else if (!strcmp(mode, "traced")) {
        pid_t child = fork();
        if (child == 0) stay();
        if (ptrace(PTRACE_SEIZE, child, NULL, PTRACE_O_TRACEEXIT) != 0) fail("trace");
        tell("done");
    } else if (!strcmp(mode, "twin")) {
        static char stack[65536] __attribute__((aligned(16)));
        if (clone(twin, stack + sizeof stack, CLONE_VM | CLONE_FILES | SIGCHLD, NULL) < 0) fail("clone");
    } else if (!strcmp(mode, "below")) {
        mount_own();
        go_to(argv[2], argv[3]);
        tell("done");
    } else if (!strcmp(mode, "burrow")) {
        char name[251];
        memset(name, 'x', 250);
        name[250] = 0;
        mount_own();
        for (int depth = 0; depth < 20; depth++) go_down(name);
        join_here();
        tell("done");
    } else if (!strcmp(mode, "chain")) {
        for (tell("done");;) {
            rest(atol(argv[2]));
            if (fork() != 0) _exit(0);
        }
    } else if (!strcmp(mode, "brood")) {
        for (tell("done");; rest(atol(argv[2])))
            if (fork() == 0) stay();
    } else if (!strcmp(mode, "storm")) {
        execv("/proc/self/exe", argv);
    } else if (!strcmp(mode, "bomb")) {
        for (int left = atoi(argv[2]); left > 0; left--)
            if (fork() == 0) stay();
        tell("done");
    } else {
        tell("there is no such mode");
    }
    stay();
}
