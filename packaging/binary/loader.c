/* The static loader of mortalgpu's one-file binary.
 *
 * It carries the frozen program (a directory: PyInstaller's, with its own ld-linux and libc) as a compressed tar, unpacks it
 * into a directory of its own, and becomes that program by execve: same pid, same argv[0], so signals, exit codes, pidfds and
 * systemd's idea of the main process need no help. A small child waits for the program's end and removes the directory. It
 * survives what ends the program, SIGKILL included; if it is killed too, the next start removes what it left.
 *
 *     mortalgpu --unpack DIR    only unpack into DIR, which must not exist: what is inside, with licences and the SBOM
 *
 * Errors: one line on stderr, exit code 69 (this machine does not let us work), as of the program itself.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

enum { UNAVAILABLE = 69, BLOCK = 512 };

/* The program's ELF interpreter is this text, in a field padded with slashes' worth of room: it is absolute and known only now. */
static const char INTERPRETER_MARK[] = INTERPRETER_PLACEHOLDER;
static const char PROGRAM[] = "mortalgpu";
static const char INTERPRETER[] = "ld-linux-x86-64.so.2";
static const char PREFIX[] = "mortalgpu-";

__asm__(".section .rodata\n"
        ".balign 16\n"
        "payload: .incbin \"" PAYLOAD "\"\n"
        "payload_end: .byte 0\n"
        ".previous\n");
extern const unsigned char payload[], payload_end[];

/* ustar: numbers are octal text. */
static size_t octal(const char *text, size_t length)
{
    size_t value = 0;
    for (size_t i = 0; i < length && text[i] >= '0' && text[i] <= '7'; i++)
        value = value * 8 + (size_t)(text[i] - '0');
    return value;
}

/* Point the program at the ld-linux beside it. Only the first mark is one: it stands in the ELF header's segment. */
static int set_interpreter(char *content, size_t size, const char *directory)
{
    char *mark = memmem(content, size, INTERPRETER_MARK, sizeof INTERPRETER_MARK - 1);
    size_t room = sizeof INTERPRETER_MARK - 1;
    if (mark == NULL || strlen(directory) + 1 + sizeof INTERPRETER > room) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memset(mark, 0, room);
    sprintf(mark, "%s/%s", directory, INTERPRETER);
    return 0;
}

static int write_file(int directory, const char *name, const char *content, size_t size, mode_t mode)
{
    int file = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (file < 0)
        return -1;
    while (size > 0) {
        ssize_t written = write(file, content, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            int problem = written < 0 ? errno : ENOSPC;
            close(file);
            errno = problem;
            return -1;
        }
        content += written;
        size -= (size_t)written;
    }
    return close(file);
}

static int unpack_member(int directory, const char *header, char *content, size_t size, const char *path)
{
    char name[101] = {0}, link[101] = {0};
    memcpy(name, header, 100);
    memcpy(link, header + 157, 100);
    mode_t mode = (mode_t)octal(header + 100, 8);
    switch (header[156]) {
    case '5':
        return mkdirat(directory, name, 0755);
    case '2':
        return symlinkat(link, directory, name);
    default:
        if (strcmp(name, PROGRAM) == 0 && set_interpreter(content, size, path) != 0)
            return -1;
        return write_file(directory, name, content, size, mode);
    }
}

/* Unpack everything under `path`, an existing absolute directory. Returns 0, or -1 with errno. */
static int unpack(const char *path)
{
    static char *tar;
    static size_t total;
    size_t packed = (size_t)(payload_end - payload);
    if (tar == NULL) {
        total = (size_t)ZSTD_getFrameContentSize(payload, packed);
        tar = malloc(total);
        if (tar == NULL)
            return -1;
        if (ZSTD_isError(ZSTD_decompress(tar, total, payload, packed))) {
            errno = EBADMSG;
            return -1;
        }
    }
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return -1;
    for (size_t at = 0; at + BLOCK <= total && tar[at] != 0;) {
        size_t size = octal(tar + at + 124, 12);
        if (unpack_member(directory, tar + at, tar + at + BLOCK, size, path) != 0) {
            int problem = errno;
            close(directory);
            errno = problem;
            return -1;
        }
        at += BLOCK + (size + BLOCK - 1) / BLOCK * BLOCK;
    }
    return close(directory);
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status, (void)kind, (void)place;
    remove(path);
    return 0;
}

static void remove_tree(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* Whoever runs from a directory holds a lock on it; one without is a leftover of a killed program and its tidier. */
static int hold(const char *path, int flags)
{
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | flags);
    if (directory >= 0 && flock(directory, LOCK_EX | LOCK_NB) != 0) {
        close(directory);
        return -1;
    }
    return directory;
}

static void remove_leftovers(const char *base)
{
    DIR *listing = opendir(base);
    if (listing == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char path[PATH_MAX];
        struct stat status;
        if (strncmp(entry->d_name, PREFIX, sizeof PREFIX - 1) != 0 || strlen(entry->d_name) != sizeof PREFIX - 1 + 6)
            continue;
        snprintf(path, sizeof path, "%s/%s", base, entry->d_name);
        if (lstat(path, &status) != 0 || !S_ISDIR(status.st_mode) || status.st_uid != geteuid())
            continue;
        int directory = hold(path, O_CLOEXEC);
        if (directory < 0)
            continue;
        remove_tree(path);
        close(directory);
    }
    closedir(listing);
}

/* Wait until the program has ended, then remove its directory. Holds no file of the program's open, so that whoever reads its
 * output sees the end of it. */
static void tidy(const char *path, pid_t program, int lock)
{
    sigset_t all, wanted;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    setsid();
    prctl(PR_SET_NAME, "mortalgpu-tidy");
    prctl(PR_SET_PDEATHSIG, SIGUSR1);
    for (int file = 0; file < 1024; file++)
        if (file != lock)
            close(file);
    if (chdir("/") == 0) {
        /* so that no mount is kept busy */
    }
    while (getppid() == program) {
        int signal;
        sigwait(&wanted, &signal);
    }
    remove_tree(path);
    _exit(0);
}

static int fit(const char *base)
{
    struct statvfs status;
    return base != NULL && base[0] == '/' && access(base, W_OK | X_OK) == 0 && statvfs(base, &status) == 0 &&
           !(status.f_flag & ST_NOEXEC);
}

/* Unpack under `base` and become the program. Returns, with errno, when that is not possible there. */
static void run_under(const char *base, char **argv)
{
    char path[PATH_MAX], program[PATH_MAX + sizeof PROGRAM + 1];
    int lock = -1;
    remove_leftovers(base);
    /* Another start may take a directory for a leftover before it is held: then make another. */
    for (int tries = 0; lock < 0 && tries < 16; tries++) {
        if (snprintf(path, sizeof path, "%s/%sXXXXXX", base, PREFIX) >= (int)sizeof path || mkdtemp(path) == NULL)
            return;
        /* Kept open over execve: as long as the program lives, its directory is no leftover. */
        lock = hold(path, 0);
    }
    pid_t self = getpid(), tidier = fork();
    if (tidier == 0)
        tidy(path, self, lock);
    int problem;
    if (unpack(path) == 0) {
        snprintf(program, sizeof program, "%s/%s", path, PROGRAM);
        execv(program, argv);
    }
    problem = errno;
    if (tidier > 0) {
        kill(tidier, SIGKILL);
        waitpid(tidier, NULL, 0);
    }
    remove_tree(path);
    close(lock);
    errno = problem;
}

static int only_unpack(const char *name)
{
    char path[PATH_MAX];
    if (mkdir(name, 0755) == 0 && realpath(name, path) != NULL && unpack(path) == 0)
        return 0;
    fprintf(stderr, "mortalgpu: cannot unpack into %s: %s\n", name, strerror(errno));
    return UNAVAILABLE;
}

int main(int argc, char **argv)
{
    const char *bases[] = {getenv("TMPDIR"), "/tmp", "/var/tmp", "/run", "/dev/shm"};
    int problem = EACCES;
    if (argc == 3 && strcmp(argv[1], "--unpack") == 0)
        return only_unpack(argv[2]);
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        if (!fit(bases[i]))
            continue;
        run_under(bases[i], argv);
        problem = errno;
    }
    fprintf(stderr,
            "mortalgpu: no place to unpack the program (%s): it needs a directory that may be written and executed, "
            "with 64 MiB free: TMPDIR, /tmp, /var/tmp, /run or /dev/shm\n",
            strerror(problem));
    return UNAVAILABLE;
}
