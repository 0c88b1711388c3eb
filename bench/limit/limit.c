/*
 * limit: the limit set by the kernel. Accepts the same connections as the other servers, then only calls send() with a
 * prepared frame for each socket. A server that sends one event to one socket per call cannot be faster.
 *
 *   limit PORT CONTROL_PORT TASKS FRAME_FILE [websocket]
 *
 * The frame file holds the bytes of one event with a token (see bench/load/load.c), which is stamped once per publish.
 * Control: `p FROM COUNT BATCH` publishes sequences FROM .. FROM+COUNT-1; BATCH is ignored here.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 20000
#define TOKEN 26

enum { FREE, LISTENER, CONTROL_LISTENER, CONTROL, ASKING, SUBSCRIBED };

static uint8_t kind[MAX_FD];
static int task_of[MAX_FD], place_of[MAX_FD];
static int **members, *sizes, *rooms;
static int tasks, websocket, epfd;
static char frame[16 * 1024];
static size_t frame_n, token_at;

static void die(const char *what) {
    fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* The same in bench/tokens.py and bench/load/load.c. */
static uint32_t pick(uint32_t seq) {
    uint32_t h = seq * 0x9E3779B1u;
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    return h % (uint32_t)tasks;
}

static void leave(int fd) {
    if (kind[fd] == SUBSCRIBED) {
        int t = task_of[fd], last = members[t][--sizes[t]];
        members[t][place_of[fd]] = last;
        place_of[last] = place_of[fd];
    }
    kind[fd] = FREE;
    close(fd);
}

static int put(int fd, const char *data, size_t n) {
    while (n) {
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            if (poll(&p, 1, 1000) <= 0) return -1;
            continue;
        }
        if (sent < 0) return -1;
        data += sent;
        n -= (size_t)sent;
    }
    return 0;
}

static void stamp(uint32_t seq) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    char token[TOKEN + 1];
    unsigned long long ns = seq ? (unsigned long long)t.tv_sec * 1000000000ull + (unsigned long long)t.tv_nsec : 0;
    snprintf(token, sizeof token, "@~%016llx%08x", ns, seq);
    memcpy(frame + token_at, token, TOKEN);
}

static void publish(uint32_t from, uint32_t count) {
    for (uint32_t seq = from; seq < from + count; seq++) {
        int t = (int)pick(seq);
        stamp(seq);
        for (int i = sizes[t] - 1; i >= 0; i--) {
            int fd = members[t][i];
            if (put(fd, frame, frame_n)) leave(fd);
        }
    }
}

static void obey(int fd) {
    char text[4096];
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    if (n == 0) exit(0);
    if (n < 0) return;
    text[n] = 0;
    for (char *one = strtok(text, "\n"); one; one = strtok(NULL, "\n")) {
        uint32_t from, count, batch;
        if (sscanf(one, "%*c %u %u %u", &from, &count, &batch) == 3) publish(from, count);
    }
}

static void answer(int fd) {
    char text[4096];
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        leave(fd);
        return;
    }
    if (kind[fd] == SUBSCRIBED) return;
    text[n] = 0;
    char *path = strchr(text, ' '), *t = path ? strstr(path, "/t") : NULL;
    int task = t ? atoi(t + 2) : 0;
    if (task < 0 || task >= tasks) {
        leave(fd);
        return;
    }
    static const char sse[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    static const char ws[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    if (put(fd, websocket ? ws : sse, (websocket ? sizeof ws : sizeof sse) - 1)) {
        leave(fd);
        return;
    }
    stamp(0);
    if (put(fd, frame, frame_n)) {
        leave(fd);
        return;
    }
    kind[fd] = SUBSCRIBED;
    task_of[fd] = task;
    if (sizes[task] == rooms[task]) {
        rooms[task] = rooms[task] ? rooms[task] * 2 : 4;
        members[task] = realloc(members[task], (size_t)rooms[task] * sizeof(int));
        if (!members[task]) die("memory");
    }
    place_of[fd] = sizes[task];
    members[task][sizes[task]++] = fd;
}

static void add(int fd, int what) {
    kind[fd] = (uint8_t)what;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &e)) die("epoll_ctl");
}

static void take(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), one = 1;
        if (fd < 0) return;
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        add(fd, kind[listener] == LISTENER ? ASKING : CONTROL);
    }
}

static int hear(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) die("listen");
    return fd;
}

int main(int argc, char **argv) {
    alarm(900); /* ends unconditionally */
    if (argc < 5) {
        fprintf(stderr, "usage: limit PORT CONTROL_PORT TASKS FRAME_FILE [websocket]\n");
        return 2;
    }
    tasks = atoi(argv[3]);
    websocket = argc > 5;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    FILE *f = fopen(argv[4], "rb");
    if (!f) die("frame file");
    frame_n = fread(frame, 1, sizeof frame, f);
    fclose(f);
    char *token = memmem(frame, frame_n, "@~", 2);
    members = calloc((size_t)tasks, sizeof *members);
    sizes = calloc((size_t)tasks, sizeof *sizes);
    rooms = calloc((size_t)tasks, sizeof *rooms);
    epfd = epoll_create1(0);
    if (!token || !members || !sizes || !rooms || epfd < 0) die("start");
    token_at = (size_t)(token - frame);
    add(hear(atoi(argv[2])), CONTROL_LISTENER);
    add(hear(atoi(argv[1])), LISTENER);
    printf("limit listening\n");
    fflush(stdout);
    struct epoll_event ready[256];
    for (;;) {
        int n = epoll_wait(epfd, ready, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (kind[fd] == LISTENER || kind[fd] == CONTROL_LISTENER) take(fd);
            else if (kind[fd] == CONTROL) obey(fd);
            else answer(fd);
        }
    }
}
