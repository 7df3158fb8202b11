/* A switch between TAP devices, one in the network namespace of each process given: switch PID...
 *
 * A packet passes its sender's uplink, then, where the two ports lie in different islands, the core link between those
 * islands, then its receiver's downlink. Each is a rate and a queue without end: a virtual clock says when it is free,
 * so rates are exact however late this process wakes, and an idle link saves up nothing (a token bucket would). Links
 * are cut through: a packet's head may leave while its tail still comes in, so equal links in a row cost one packet's
 * time, not two. Every link serves heads in the order in which they reach it and is never idle while one waits;
 * reserving a downlink in the order of the uplinks instead makes an all-to-all 1.6 times too slow.
 *
 * Standard output: "ready" once the devices stand. Standard input, a line each, taken up at once; its end ends the
 * switch:
 *   port P UP DOWN DELAY      rates in bytes/s (of whole Ethernet frames), one-way delay in seconds
 *   core RATE I0 I1 ...       rate of each directed link between two islands, and the island of every port; 0: none
 *   count                     answers "count PORT=PACKETS/BYTES ..." of what each port sent so far
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { PORTS = 64, FRAME = 65600, BURST = 32, PRIORITY = 20 };
enum stage { CORE, DOWN, DELIVER };

typedef struct {
    double at;      /* when the head reaches the next stage; at last, when the packet is through */
    double tail;    /* when the tail has come in */
    unsigned long order;
    enum stage stage;
    int from, to, length;
    char *bytes;
} Event;

static Event *heap;
static size_t held, room;
static unsigned long orders;
static int ports, tap[PORTS], island[PORTS];
static double up_rate[PORTS], down_rate[PORTS], delay[PORTS], core_rate;
static double up_free[PORTS], down_free[PORTS], core_free[PORTS][PORTS];
static unsigned long long packets[PORTS], sent[PORTS];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int before(const Event *a, const Event *b) {
    return a->at < b->at || (a->at == b->at && a->order < b->order);
}

static void push(Event e) {
    if (held == room && !(heap = realloc(heap, (room = room ? 2 * room : 1024) * sizeof *heap))) fail("memory");
    e.order = orders++;
    size_t i = held++;
    for (; i && before(&e, &heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = e;
}

static Event pop(void) {
    Event top = heap[0], last = heap[--held];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < held) {
        if (child + 1 < held && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &last)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

/* The head reaches a link at e->at; afterwards e->at and e->tail say when head and tail are through. */
static void cross(Event *e, double rate, double *is_free) {
    double start = e->at > *is_free ? e->at : *is_free;
    *is_free = start + e->length / rate;
    e->at = start;
    if (*is_free > e->tail) e->tail = *is_free;
}

static void act(Event e) {
    if (e.stage == CORE) {
        cross(&e, core_rate, &core_free[island[e.from]][island[e.to]]);
        e.stage = DOWN;
        push(e);
    } else if (e.stage == DOWN) {
        cross(&e, down_rate[e.to], &down_free[e.to]);
        e.at = e.tail;
        e.stage = DELIVER;
        push(e);
    } else {
        if (write(tap[e.to], e.bytes, e.length) < 0 && errno != EAGAIN && errno != EIO) fail("write to a TAP device");
        free(e.bytes);
    }
}

static void accept_packet(int from, const char *bytes, int length, double time) {
    int first = 0, last = ports - 1, address = (unsigned char)bytes[5] - 1; /* 02:00:00:00:00:PP, ports from 1 */
    if (!(bytes[0] & 1)) {
        if (address < 0 || address >= ports) return;
        first = last = address;
    }
    Event e = {.at = time, .tail = time, .from = from, .length = length};
    cross(&e, up_rate[from], &up_free[from]);
    e.at += delay[from];
    e.tail += delay[from];
    packets[from]++;
    sent[from] += length;
    for (int to = first; to <= last; to++) {
        if (to == from) continue;
        if (!(e.bytes = malloc(length))) fail("memory");
        memcpy(e.bytes, bytes, length);
        e.to = to;
        e.stage = core_rate > 0 && island[from] != island[to] ? CORE : DOWN;
        push(e);
    }
}

static void obey(char *line) {
    int port, used;
    double up, down, wait;
    if (sscanf(line, "port %d %lf %lf %lf", &port, &up, &down, &wait) == 4) {
        if (port < 0 || port >= ports || up <= 0 || down <= 0 || wait < 0) exit(2);
        up_rate[port] = up, down_rate[port] = down, delay[port] = wait;
    } else if (sscanf(line, "core %lf%n", &core_rate, &used) == 1) {
        char *rest = line + used;
        for (port = 0; port < ports; port++) island[port] = (int)strtol(rest, &rest, 10) % PORTS;
    } else if (!strncmp(line, "count", 5)) {
        printf("count");
        for (port = 0; port < ports; port++) printf(" %d=%llu/%llu", port, packets[port], sent[port]);
        printf("\n");
    } else {
        exit(2);
    }
    fflush(stdout);
}

static int open_tap(const char *pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
    int space = open(path, O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET)) fail(path);
    close(space);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) fail("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    strcpy(request.ifr_name, "eth0");
    if (ioctl(fd, TUNSETIFF, &request)) fail("TUNSETIFF");
    return fd;
}

int main(int count, char **words) {
    static char frame[FRAME], input[4096];
    size_t typed = 0;
    struct pollfd ready[PORTS + 1];
    struct sched_param priority = {.sched_priority = PRIORITY};
    prctl(PR_SET_PDEATHSIG, 9);
    if (count < 2 || count - 1 > PORTS) return 2;
    ports = count - 1;
    for (int p = 0; p < ports; p++) {
        tap[p] = open_tap(words[p + 1]);
        up_rate[p] = down_rate[p] = 1e12;
        ready[p] = (struct pollfd){.fd = tap[p], .events = POLLIN};
    }
    ready[ports] = (struct pollfd){.fd = 0, .events = POLLIN};
    prctl(PR_SET_TIMERSLACK, 1);
    if (sched_setscheduler(0, SCHED_FIFO, &priority)) fprintf(stderr, "switch: no SCHED_FIFO\n");
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        double left = held ? heap[0].at - now() : 1.0;
        struct timespec wait = {0, 0};
        if (left > 0) wait = (struct timespec){(time_t)left, (long)((left - (time_t)left) * 1e9)};
        int found = ppoll(ready, ports + 1, &wait, NULL);
        if (found < 0 && errno != EINTR) fail("poll");
        for (int p = 0; found > 0 && p < ports; p++) {
            if (!(ready[p].revents & POLLIN)) continue;
            for (int i = 0; i < BURST; i++) {
                ssize_t length = read(tap[p], frame, FRAME);
                if (length < 14) break;
                accept_packet(p, frame, (int)length, now());
            }
        }
        if (found > 0 && ready[ports].revents) {
            ssize_t length = read(0, input + typed, sizeof input - 1 - typed);
            if (length <= 0) return 0;
            typed += length;
            input[typed] = 0;
            for (char *end; (end = strchr(input, '\n')); typed = strlen(input)) {
                *end = 0;
                obey(input);
                memmove(input, end + 1, strlen(end + 1) + 1);
            }
        }
        for (double time = now(); held && heap[0].at <= time; time = now()) act(pop());
    }
}
