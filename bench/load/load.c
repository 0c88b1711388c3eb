/*
 * load: opens many streams to a server and checks the received events. One thread, epoll, loopback only.
 *
 * Every published state carries a token in its payload: "@~", 16 hex digits of the publisher's
 * monotonic nanoseconds, 8 hex digits of a sequence number. It yields latency, gaps, duplicates and order.
 * Sequence number s belongs to task pick(s); publisher and load compute it independently.
 *
 * Commands are lines on standard input; each gets one line of JSON as reply:
 *   open N RATE INFLIGHT SMALL   open N streams (RATE per second, 0 = as fast as INFLIGHT at once allows) and wait
 *                                for the first state of each, or for its head with `--stateless 1`; the last SMALL get
 *                                a small receive buffer
 *   lock WARM ROUNDS BURST       publish BURST states; continue when all have received the last one; ROUNDS are measured
 *   pace RATE COUNT BURST        publish BURST states RATE times per second, COUNT times, unconditionally
 *   flood COUNT BATCH            publish COUNT states without waiting, BATCH per turn of the publisher
 *   final                        publish a final state of task 0; wait for it and for the end of each stream
 *   hold SECONDS                 read for SECONDS
 *   sleep K / wake K             the newest K stop reading / K of them resume
 *   drop K                       close the newest K (0 = all)
 *   return SECONDS               closed connections reconnect after their `retry:`; 0 = only enable this
 *   stat                         print the current counts
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <dirent.h>

#define TOKEN 26
#define MAX_CONNS 19900
#define MAX_SEQ (1u << 21)
#define NONE UINT32_MAX
#define MAX_PUBS 64
#define BUCKETS 2048

enum { EMPTY, CONNECTING, ASKED, LIVE, ASLEEP, GONE };

struct conn {
    int fd;
    uint8_t state, headed, ended, fresh, small;
    uint8_t carried;
    char carry[TOKEN];
    uint32_t firsts;
    uint32_t retry_ms;
    uint64_t began, due;
    /* WebSocket framing, only to see pings and closes */
    uint8_t ws_head[10], ws_have, ws_opcode, ws_ctl_n;
    uint64_t ws_left;
    char ws_ctl[126];
};

struct pub {
    int fd;
    int outstanding;
    uint32_t next; /* all states of its tasks before this one are sent */
};

static struct conn *conns;
static uint32_t *lasts;                /* per connection and task: the newest sequence seen */
static int opened;                     /* connections allocated so far: 0 .. opened-1 */
static int live, inflight, reading;
static int epfd;

static int port, tasks = 1, per_conn = 1, websocket;
static const char *path = "/t%d", *item, *protocol, *accept_type = "text/event-stream";
static int trigger_port;
static const char *trigger_path, *template_file, *trigger_header, *trigger_type = "application/json";
static int pub_conns = 1, stateless;
static double stall_timeout = 30;
static int pids[64], npids;

static uint32_t next_seq = 1, first_open_seq;
static uint32_t *prev_of;              /* previous sequence of the same task */
static uint32_t *last_of_task;
static uint32_t *worst_us;             /* per sequence: latency of the last socket */
static int64_t pending;

static struct pub pubs[MAX_PUBS];
static int control = -1;
static uint32_t http_end;
static int http_depth;
static char *template;
static size_t template_n, template_at, template_task; /* where token and task are; no task: the end of the template */

static int measuring, returning, expecting_end;
static uint64_t events, bytes, skipped, repeats, backwards, foreign;
static uint64_t refused, closed, reset_count, ended_count, woken_ended;
static uint64_t histogram[BUCKETS];
static double max_us;
static uint64_t first_hist[BUCKETS];
static uint64_t progress_at;

static char line[4096];
static size_t line_n;
static int stdin_over;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* The same in bench/tokens.py and bench/limit/limit.c. */
static uint32_t pick(uint32_t seq) {
    uint32_t h = seq * 0x9E3779B1u;
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    return h % (uint32_t)tasks;
}

/* Each bucket is 1/32 of a power of two wide: at most 3 % error. */
static int bucket_of(uint64_t us) {
    if (us < 64) return (int)us;
    int top = 63 - __builtin_clzll(us);
    int index = (top - 5) * 32 + (int)((us >> (top - 5)) & 31) + 32;
    return index < BUCKETS ? index : BUCKETS - 1;
}

static double bucket_value(int index) {
    if (index < 64) return index;
    int top = (index - 32) / 32 + 5;
    return (double)((32ull + (uint64_t)((index - 32) % 32)) << (top - 5)) * 1.015;
}

static double quantile(const uint64_t *counts, double q) {
    uint64_t all = 0, sum = 0;
    for (int i = 0; i < BUCKETS; i++) all += counts[i];
    if (!all) return 0;
    for (int i = 0; i < BUCKETS; i++) {
        sum += counts[i];
        if ((double)sum >= q * (double)all) return bucket_value(i);
    }
    return bucket_value(BUCKETS - 1);
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* CPU seconds of the server's processes, all threads, from the scheduler's own nanoseconds. */
static double server_cpu(void) {
    double sum = 0;
    for (int i = 0; i < npids; i++) {
        char name[64];
        snprintf(name, sizeof name, "/proc/%d/task", pids[i]);
        DIR *dir = opendir(name);
        if (!dir) continue;
        struct dirent *entry;
        while ((entry = readdir(dir))) {
            if (!isdigit((unsigned char)entry->d_name[0])) continue;
            char file[400];
            snprintf(file, sizeof file, "/proc/%d/task/%s/schedstat", pids[i], entry->d_name);
            FILE *f = fopen(file, "r");
            unsigned long long ns = 0;
            if (f && fscanf(f, "%llu", &ns) == 1) sum += (double)ns / 1e9;
            if (f) fclose(f);
        }
        closedir(dir);
    }
    return sum;
}

static double own_cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static uint32_t base_of(int index) { return (uint32_t)(((uint64_t)index * (uint64_t)per_conn) % (uint64_t)tasks); }

static int waits_for(int index, int slot) {
    uint32_t task = (base_of(index) + (uint32_t)slot) % (uint32_t)tasks;
    uint32_t have = lasts[(size_t)index * (size_t)per_conn + (size_t)slot];
    return last_of_task[task] > first_open_seq && (have == NONE || have < last_of_task[task]);
}

static void count_pending(void) {
    pending = 0;
    for (int i = 0; i < opened; i++)
        if (conns[i].state == LIVE)
            for (int slot = 0; slot < per_conn; slot++) pending += waits_for(i, slot);
}

static void hang_up(int index, int by_us) {
    struct conn *c = &conns[index];
    if (c->state == LIVE && !by_us)
        for (int slot = 0; slot < per_conn; slot++) pending -= waits_for(index, slot);
    if (c->state == LIVE || c->state == ASLEEP) live--;
    if (c->state == LIVE) reading--;
    if (c->state == CONNECTING || c->state == ASKED) {
        inflight--;
        if (!by_us) refused++;
    } else if (!by_us) {
        closed++;
    }
    close(c->fd);
    c->fd = -1;
    c->state = GONE;
    if (returning) {
        uint32_t wait = c->retry_ms ? c->retry_ms : 1000u + (uint32_t)(random() % 2000);
        c->due = now_ns() + (uint64_t)wait * 1000000ull;
    }
}

static void now_live(int index, uint64_t now) {
    struct conn *c = &conns[index];
    c->state = LIVE;
    c->firsts = (uint32_t)per_conn;
    inflight--;
    live++;
    reading++;
    first_hist[bucket_of((now - c->began) / 1000)]++;
    for (int s = 0; s < per_conn; s++) {
        uint32_t *one = &lasts[(size_t)index * (size_t)per_conn + (size_t)s];
        if (*one == NONE) *one = 0;
    }
}

static void on_token(int index, uint64_t stamp, uint32_t seq, uint64_t now) {
    struct conn *c = &conns[index];
    progress_at = now;
    uint32_t slot = 0;
    if (seq) {
        slot = (pick(seq) + (uint32_t)tasks - base_of(index)) % (uint32_t)tasks;
        if (slot >= (uint32_t)per_conn) {
            foreign++;
            return;
        }
    }
    uint32_t *last = &lasts[(size_t)index * (size_t)per_conn + slot];
    if (c->firsts < (uint32_t)per_conn) {
        c->firsts++;
        if (seq) *last = seq;
        if (c->firsts == (uint32_t)per_conn && c->state == ASKED) now_live(index, now);
        return;
    }
    if (!seq) {
        repeats++;
        return;
    }
    if (seq >= next_seq) {
        foreign++;
        return;
    }
    uint32_t have = *last == NONE ? 0 : *last;
    if (seq <= have) {
        if (seq == have) repeats++;
        else backwards++;
        return;
    }
    uint32_t before = prev_of[seq];
    while (before > have && before > first_open_seq) {
        skipped++;
        before = prev_of[before];
    }
    *last = seq;
    if (c->state == LIVE && seq == last_of_task[pick(seq)]) pending--;
    if (measuring) {
        uint64_t us = now > stamp ? (now - stamp) / 1000 : 0;
        events++;
        if (c->small) return; /* the latency of a slow reader does not count for the others */
        histogram[bucket_of(us)]++;
        if ((double)us > max_us) max_us = (double)us;
        if (us > worst_us[seq]) worst_us[seq] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
    }
}

static int hex(const char *text, int digits, uint64_t *value) {
    uint64_t v = 0;
    for (int i = 0; i < digits; i++) {
        char ch = text[i];
        int d = ch >= '0' && ch <= '9' ? ch - '0' : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
        if (d < 0) return 0;
        v = v << 4 | (uint64_t)d;
    }
    *value = v;
    return 1;
}

/* Finds tokens in the received bytes, including tokens split over two reads. */
static void scan(int index, char *data, size_t n, uint64_t now) {
    struct conn *c = &conns[index];
    char *at = data - c->carried;
    size_t left = n + c->carried;
    memcpy(at, c->carry, c->carried);
    c->carried = 0;
    while (left) {
        char *found = memchr(at, '@', left);
        if (!found) return;
        left -= (size_t)(found - at);
        at = found;
        if (left < TOKEN) {
            if (left < 2 || at[1] == '~') {
                memcpy(c->carry, at, left);
                c->carried = (uint8_t)left;
                return;
            }
        } else if (at[1] == '~') {
            uint64_t stamp, seq;
            if (hex(at + 2, 16, &stamp) && hex(at + 18, 8, &seq)) {
                on_token(index, stamp, (uint32_t)seq, now);
                if (conns[index].fd < 0) return;
                at += TOKEN;
                left -= TOKEN;
                continue;
            }
        }
        at++;
        left--;
    }
}

static void ws_feed(struct conn *c, const char *data, size_t n) {
    while (n) {
        if (c->ws_left == 0 && c->ws_have != 255) {
            c->ws_head[c->ws_have++] = (uint8_t)*data++;
            n--;
            if (c->ws_have < 2) continue;
            int size = c->ws_head[1] & 127, need = size == 126 ? 4 : size == 127 ? 10 : 2;
            if (c->ws_have < need) continue;
            uint64_t length = (uint64_t)size;
            if (need > 2) {
                length = 0;
                for (int i = 2; i < need; i++) length = length << 8 | c->ws_head[i];
            }
            c->ws_opcode = c->ws_head[0] & 15;
            c->ws_left = length;
            c->ws_ctl_n = 0;
            c->ws_have = length ? 255 : 0;
        } else {
            size_t take = n < c->ws_left ? n : (size_t)c->ws_left;
            if (c->ws_opcode >= 8 && c->ws_ctl_n + take <= 125) {
                memcpy(c->ws_ctl + c->ws_ctl_n, data, take);
                c->ws_ctl_n = (uint8_t)(c->ws_ctl_n + take);
            }
            data += take;
            n -= take;
            c->ws_left -= take;
            if (c->ws_left == 0) c->ws_have = 0;
        }
        if (c->ws_left == 0 && c->ws_have == 0 && c->ws_opcode == 9) {
            char pong[132] = {(char)0x8a, (char)(0x80 | c->ws_ctl_n), 0, 0, 0, 0};
            memcpy(pong + 6, c->ws_ctl, c->ws_ctl_n);
            if (send(c->fd, pong, 6u + c->ws_ctl_n, MSG_NOSIGNAL) < 0) return;
            c->ws_opcode = 0;
        }
    }
}

static void look_for_retry(struct conn *c, const char *data, size_t n) {
    const char *end = data + n;
    for (;;) {
        const char *found = memmem(data, (size_t)(end - data), "retry: ", 7);
        if (!found) return;
        data = found + 7;
        uint32_t value = 0;
        while (data < end && isdigit((unsigned char)*data)) value = value * 10 + (uint32_t)(*data++ - '0');
        if (value) c->retry_ms = value;
    }
}

static void ask(int index) {
    struct conn *c = &conns[index];
    static char request[64 * 1024];
    char *at = request, *end = request + sizeof request;
    at += snprintf(at, (size_t)(end - at), "GET ");
    if (item) {
        at += snprintf(at, (size_t)(end - at), "%s", path);
        for (int i = 0; i < per_conn; i++)
            at += snprintf(at, (size_t)(end - at), item, (int)((base_of(index) + (uint32_t)i) % (uint32_t)tasks));
    } else {
        at += snprintf(at, (size_t)(end - at), path, (int)base_of(index));
    }
    at += snprintf(at, (size_t)(end - at), " HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    if (websocket) {
        at += snprintf(at, (size_t)(end - at),
                       "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
        if (protocol) at += snprintf(at, (size_t)(end - at), "Sec-WebSocket-Protocol: %s\r\n", protocol);
    } else {
        at += snprintf(at, (size_t)(end - at), "Accept: %s\r\n", accept_type);
    }
    at += snprintf(at, (size_t)(end - at), "\r\n");
    ssize_t n = send(c->fd, request, (size_t)(at - request), MSG_NOSIGNAL);
    if (n != at - request) {
        hang_up(index, 0);
        return;
    }
    c->state = ASKED;
}

static void watch(int index, uint32_t what) {
    struct epoll_event e = {.events = what | EPOLLET | EPOLLRDHUP, .data.u64 = (uint64_t)index};
    if (epoll_ctl(epfd, EPOLL_CTL_MOD, conns[index].fd, &e) && epoll_ctl(epfd, EPOLL_CTL_ADD, conns[index].fd, &e))
        die("epoll_ctl");
}

static void launch(int index) {
    struct conn *c = &conns[index];
    uint32_t retry = c->retry_ms;
    uint8_t small = c->small;
    memset(c, 0, sizeof *c);
    c->retry_ms = retry;
    c->small = small;
    for (int s = 0; s < per_conn; s++) lasts[(size_t)index * (size_t)per_conn + (size_t)s] = NONE;
    c->began = now_ns();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    c->state = CONNECTING;
    inflight++;
    if (c->fd < 0) {
        c->fd = -1;
        c->state = GONE;
        inflight--;
        refused++;
        return;
    }
    int one = 1, little = 4096;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->small) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) == 0) {
        watch(index, EPOLLIN);
        ask(index);
    } else if (errno == EINPROGRESS) {
        watch(index, EPOLLOUT);
    } else {
        hang_up(index, 0);
    }
}

static char space[64 + 256 * 1024];

static void readable(int index) {
    struct conn *c = &conns[index];
    char *buffer = space + 64;
    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof space - 64, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) {
            if (n < 0) reset_count++;
            hang_up(index, 0);
            return;
        }
        uint64_t now = now_ns();
        bytes += (uint64_t)n;
        char *data = buffer;
        size_t left = (size_t)n;
        if (!c->headed) {
            const char *right = websocket ? "HTTP/1.1 101" : "HTTP/1.1 200";
            if (n < 12 || memcmp(buffer, right, 12)) {
                hang_up(index, 0);
                return;
            }
            char *body = memmem(buffer, left, "\r\n\r\n", 4); /* servers send their head in one piece */
            c->headed = 1;
            if (stateless) {
                progress_at = now;
                now_live(index, now);
            }
            if (body) {
                left -= (size_t)(body + 4 - buffer);
                data = body + 4;
            } else {
                left = 0;
            }
        }
        if (returning || c->firsts < (uint32_t)per_conn) look_for_retry(c, data, left);
        if (expecting_end && !c->ended && memmem(data, left, "event: end", 10)) {
            c->ended = 1;
            ended_count++;
            if (c->small) woken_ended++;
        }
        if (websocket) ws_feed(c, data, left);
        scan(index, data, left, now);
        if (c->fd < 0 || n < (ssize_t)(sizeof space - 64)) return;
    }
}

/* Publisher */

#define TASK_MARK "{task}"

/* A request that publishes the state `seq` of a task: the template with the token, and the task where it asks for it. */
static size_t make_request(char *request, size_t room, uint32_t seq, int task) {
    char token[TOKEN + 1], name[16] = "";
    snprintf(token, sizeof token, "@~%016llx%08x", (unsigned long long)(seq ? now_ns() : 0), seq);
    memcpy(template + template_at, token, TOKEN);
    size_t after = template_task;
    if (template_task < template_n) {
        snprintf(name, sizeof name, "t%d", task);
        after += sizeof TASK_MARK - 1;
    }
    size_t size = template_task + strlen(name) + template_n - after;
    char *at = request, *end = request + room;
    at += snprintf(at, (size_t)(end - at), "POST ");
    at += snprintf(at, (size_t)(end - at), trigger_path, task);
    at += snprintf(at, (size_t)(end - at), " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\n", trigger_type);
    if (trigger_header) at += snprintf(at, (size_t)(end - at), "%s\r\n", trigger_header);
    at += snprintf(at, (size_t)(end - at), "Content-Length: %zu\r\n\r\n", size);
    at = mempcpy(at, template, template_task);
    at = mempcpy(at, name, strlen(name));
    at = mempcpy(at, template + after, template_n - after);
    return (size_t)(at - request);
}

/* Some servers answer 200 and say in the body what was wrong. */
static void check_answer(const char *answer, size_t n) {
    if (n < 10 || answer[9] != '2' || memmem(answer, n, "\"error\"", 7)) {
        fprintf(stderr, "load: publishing was refused: %.*s\n", (int)(n < 600 ? n : 600), answer);
        exit(1);
    }
}

static int dial(int to_port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)to_port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) die("cannot reach the publisher");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

#define STDIN_TAG (1ull << 40)
#define CONTROL_TAG (1ull << 41)
#define PUB_TAG (1ull << 42)

/* Connections are made when there is something to publish: servers close those that ask for nothing. */
static void reach(struct pub *p) {
    if (p->fd >= 0) return;
    p->fd = dial(trigger_port);
    fcntl(p->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = PUB_TAG | (uint64_t)(p - pubs)};
    epoll_ctl(epfd, EPOLL_CTL_ADD, p->fd, &e);
}

static void post(struct pub *p, uint32_t seq) {
    static char request[32 * 1024];
    size_t size = make_request(request, sizeof request, seq, (int)pick(seq)), done = 0;
    reach(p);
    while (done < size) {
        ssize_t sent = send(p->fd, request + done, size - done, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) die("publishing");
            usleep(50);
            continue;
        }
        done += (size_t)sent;
    }
    p->outstanding++;
}

/* Each task has its connection: a server with several threads may swap what comes on two of them. */
static void post_more(int index) {
    struct pub *p = &pubs[index];
    for (; p->outstanding < http_depth && p->next < http_end; p->next++)
        if ((int)(pick(p->next) % (uint32_t)pub_conns) == index) post(p, p->next);
}

static void publisher_says(int index) {
    char answer[16 * 1024];
    for (;;) {
        ssize_t n = recv(pubs[index].fd, answer, sizeof answer, 0);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            if (pubs[index].outstanding) die("the publishing connection ended");
            close(pubs[index].fd);
            pubs[index].fd = -1;
            return;
        }
        char *at = answer;
        size_t left = (size_t)n;
        while ((at = memmem(at, left, "HTTP/1.1 ", 9))) {
            pubs[index].outstanding--;
            check_answer(at, left);
            at += 9;
            left = (size_t)(answer + n - at);
        }
    }
    post_more(index);
}

static void publish(uint32_t count, uint32_t batch, char how) {
    uint32_t from = next_seq;
    if (next_seq + count >= MAX_SEQ) {
        fprintf(stderr, "load: too many states for one run\n");
        exit(1);
    }
    for (uint32_t s = from; s < from + count; s++) {
        uint32_t task = pick(s);
        prev_of[s] = last_of_task[task];
        last_of_task[task] = s;
    }
    next_seq += count;
    count_pending();
    progress_at = now_ns();
    if (trigger_path) {
        http_end = from + count;
        http_depth = count > batch || pub_conns > 1 ? 1 : (int)count;
        for (int i = 0; i < pub_conns; i++) post_more(i);
    } else {
        char text[64];
        int n = snprintf(text, sizeof text, "%c %u %u %u\n", how, from, count, batch);
        if (write(control, text, (size_t)n) != n) die("control");
    }
}

/* One turn of the loop */

static void control_says(void) {
    char text[4096];
    ssize_t n = recv(control, text, sizeof text, MSG_DONTWAIT);
    if (n == 0) {
        epoll_ctl(epfd, EPOLL_CTL_DEL, control, NULL); /* a restarted server has a new one */
    }
}

static void turn(int timeout_ms) {
    static struct epoll_event ready[1024];
    int n = epoll_wait(epfd, ready, 1024, timeout_ms);
    for (int i = 0; i < n; i++) {
        uint64_t tag = ready[i].data.u64;
        if (tag == STDIN_TAG) {
            ssize_t got = read(0, line + line_n, sizeof line - 1 - line_n);
            if (got <= 0) stdin_over = 1;
            else line_n += (size_t)got;
        } else if (tag == CONTROL_TAG) {
            control_says();
        } else if (tag & PUB_TAG) {
            publisher_says((int)(tag & 0xff));
        } else {
            int index = (int)tag;
            struct conn *c = &conns[index];
            if (c->fd < 0 || c->state == ASLEEP) continue;
            if (c->state == CONNECTING) {
                int error = 0;
                socklen_t size = sizeof error;
                getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
                if (error) {
                    hang_up(index, 0);
                    continue;
                }
                watch(index, EPOLLIN);
                ask(index);
                continue;
            }
            readable(index);
        }
    }
}

static int stuck(void) { return (double)(now_ns() - progress_at) / 1e9 > stall_timeout; }

/* Replies */

static void say(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
}

struct window {
    uint64_t began;
    double cpu, own;
    uint32_t seq;
};

static struct window begin_window(void) {
    memset(histogram, 0, sizeof histogram);
    events = bytes = skipped = repeats = backwards = foreign = closed = 0;
    max_us = 0;
    measuring = 1;
    struct window w = {now_ns(), server_cpu(), own_cpu(), next_seq};
    return w;
}

static void end_window(const char *command, struct window w, uint32_t published) {
    double seconds = (double)(now_ns() - w.began) / 1e9;
    double cpu = server_cpu() - w.cpu, own = own_cpu() - w.own;
    measuring = 0;
    uint32_t n = next_seq - w.seq;
    uint32_t *worst = calloc(n + 1, sizeof *worst);
    uint32_t carried = 0;
    for (uint32_t s = w.seq; s < next_seq; s++)
        if (worst_us[s]) worst[carried++] = worst_us[s];
    qsort(worst, carried, sizeof *worst, ascending);
    uint32_t p50 = carried ? worst[(carried - 1) / 2] : 0, p99 = carried ? worst[(uint32_t)((double)(carried - 1) * 0.99)] : 0;
    free(worst);
    double meant = (double)published * (double)reading * per_conn / tasks;
    double per = events ? 1e6 / (double)events : 0;
    say("{\"command\":\"%s\",\"published\":%u,\"meant\":%.0f,\"events\":%llu,\"seconds\":%.6f,", command, published, meant,
        (unsigned long long)events, seconds);
    say("\"events_per_second\":%.1f,\"meant_per_second\":%.1f,", (double)events / seconds, meant / seconds);
    say("\"cpu_us_per_event\":%.4f,\"cpu_us_per_meant\":%.4f,", cpu * per, meant > 0 ? cpu * 1e6 / meant : 0);
    say("\"server_util\":%.4f,\"load_util\":%.4f,\"load_us_per_event\":%.4f,", cpu / seconds, own / seconds, own * per);
    say("\"p50_us\":%.0f,\"p99_us\":%.0f,\"max_us\":%.0f,\"all_p50_us\":%u,\"all_p99_us\":%u,", quantile(histogram, 0.5),
        quantile(histogram, 0.99), max_us, p50, p99);
    say("\"skipped\":%llu,\"repeats\":%llu,\"backwards\":%llu,\"foreign\":%llu,", (unsigned long long)skipped,
        (unsigned long long)repeats, (unsigned long long)backwards, (unsigned long long)foreign);
    say("\"missing_last\":%lld,\"closed\":%llu,\"bytes\":%llu,\"reading\":%d}\n", (long long)pending,
        (unsigned long long)closed, (unsigned long long)bytes, reading);
}

/* Commands */

static void cmd_open(int count, double rate, int at_once, int small) {
    if (opened + count > MAX_CONNS) count = MAX_CONNS - opened;
    int target = opened + count;
    uint64_t refused_before = refused, began = now_ns();
    uint32_t have = (uint32_t)live;
    double cpu = server_cpu(), own = own_cpu();
    memset(first_hist, 0, sizeof first_hist);
    progress_at = began;
    int launched = 0;
    first_open_seq = next_seq - 1;
    while (1) {
        double elapsed = (double)(now_ns() - began) / 1e9;
        while (opened < target && inflight < at_once && (rate <= 0 || launched < rate * elapsed + 1)) {
            conns[opened].small = opened >= target - small;
            launch(opened++);
            launched++;
        }
        if (opened == target && inflight == 0) break;
        if (stuck()) break;
        turn(rate > 0 ? 1 : 50);
    }
    double seconds = (double)(now_ns() - began) / 1e9;
    uint32_t got = (uint32_t)live - have;
    say("{\"command\":\"open\",\"opened\":%u,\"refused\":%llu,\"without_state\":%d,\"seconds\":%.4f,\"per_second\":%.1f,", got,
        (unsigned long long)(refused - refused_before), inflight, seconds, got / seconds);
    say("\"cpu_us_per_connection\":%.2f,\"load_util\":%.3f,\"first_p50_us\":%.0f,\"first_p99_us\":%.0f}\n",
        got ? (server_cpu() - cpu) * 1e6 / got : 0, (own_cpu() - own) / seconds, quantile(first_hist, 0.5),
        quantile(first_hist, 0.99));
}

/*
 * Timeout of epoll_wait. Zero while only some readers have a state: otherwise the server would pay for waking this
 * core at every send, which remote readers would not cost it.
 */
static int nap(uint64_t before, int ms) { return pending > 0 && events != before ? 0 : ms; }

static void wait_for_all(void) {
    uint64_t before = events;
    while (pending > 0 && !stuck()) turn(nap(before, 200));
}

static void cmd_lock(int warm, int rounds, int burst) {
    struct window w = {0};
    for (int round = 0; round < warm + rounds; round++) {
        if (round == warm) w = begin_window();
        publish((uint32_t)burst, (uint32_t)burst, 'p');
        wait_for_all();
        if (pending > 0) break;
    }
    if (!w.began) w = begin_window();
    end_window("lock", w, (uint32_t)(rounds * burst));
}

static void cmd_pace(double rate, int count, int burst) {
    struct window w = begin_window();
    uint64_t before = events;
    for (int i = 0; i < count; i++) {
        uint64_t due = w.began + (uint64_t)((double)i / rate * 1e9);
        uint64_t now;
        while ((now = now_ns()) < due) turn(nap(before, (int)((due - now) / 1000000)));
        before = events;
        publish((uint32_t)burst, (uint32_t)burst, 'p');
        turn(0);
    }
    wait_for_all();
    end_window("pace", w, (uint32_t)(count * burst));
}

static void cmd_flood(int count, int batch) {
    struct window w = begin_window();
    publish((uint32_t)count, (uint32_t)batch, 'p');
    wait_for_all();
    end_window("flood", w, (uint32_t)count);
}

static void cmd_final(void) {
    expecting_end = 1;
    ended_count = woken_ended = 0;
    int there = reading, small = 0;
    for (int i = 0; i < opened; i++) small += conns[i].state == LIVE && conns[i].small;
    struct window w = begin_window();
    publish(1, 1, 'f');
    uint64_t until = now_ns() + (uint64_t)(stall_timeout * 1e9);
    while ((int)ended_count < there && now_ns() < until) turn(100);
    int with = 0;
    for (int i = 0; i < opened; i++) with += lasts[(size_t)i * (size_t)per_conn] == next_seq - 1;
    measuring = 0;
    say("{\"command\":\"final\",\"readers\":%d,\"have_final\":%d,\"ended\":%llu,\"woken\":%d,\"woken_ended\":%llu,\"seconds\":%.4f}\n",
        there, with, (unsigned long long)ended_count, small, (unsigned long long)woken_ended,
        (double)(now_ns() - w.began) / 1e9);
    expecting_end = 0;
}

static void cmd_hold(double seconds) {
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9), now;
    bytes = 0;
    while ((now = now_ns()) < until) turn((int)((until - now) / 1000000) + 1);
    say("{\"command\":\"hold\",\"live\":%d,\"bytes\":%llu}\n", live, (unsigned long long)bytes);
}

static void cmd_sleep(int count) {
    int done = 0;
    for (int i = opened - 1; i >= 0 && done < count; i--) {
        if (conns[i].state != LIVE) continue;
        conns[i].state = ASLEEP;
        reading--;
        done++;
        epoll_ctl(epfd, EPOLL_CTL_DEL, conns[i].fd, NULL);
    }
    say("{\"command\":\"sleep\",\"asleep\":%d}\n", done);
}

static void cmd_wake(int count) {
    int done = 0, right = 0;
    uint64_t began = now_ns(), was_closed = closed;
    static int who[MAX_CONNS];
    skipped = repeats = backwards = 0;
    for (int i = 0; i < opened && done < count; i++) {
        if (conns[i].state != ASLEEP) continue;
        conns[i].state = LIVE;
        reading++;
        who[done++] = i;
        watch(i, EPOLLIN);
    }
    count_pending();
    progress_at = began;
    int awake = done;
    for (int k = 0; k < awake; k++)
        if (conns[who[k]].state == LIVE) readable(who[k]);
    uint64_t until = began + 3000000000ull;
    while (now_ns() < until && (pending > 0 || now_ns() - began < 200000000ull)) turn(50);
    for (int k = 0; k < awake; k++)
        right += conns[who[k]].state == LIVE && lasts[(size_t)who[k] * (size_t)per_conn] == last_of_task[base_of(who[k])];
    say("{\"command\":\"wake\",\"woken\":%d,\"have_last\":%d,\"found_closed\":%llu,\"skipped\":%llu,\"repeats\":%llu,\"backwards\":%llu,\"seconds\":%.4f}\n",
        awake, right, (unsigned long long)(closed - was_closed), (unsigned long long)skipped, (unsigned long long)repeats,
        (unsigned long long)backwards, (double)(now_ns() - began) / 1e9);
}

static void cmd_drop(int count) {
    int done = 0;
    if (count <= 0) count = opened;
    for (int i = opened - 1; i >= 0 && done < count; i--) {
        if (conns[i].state == EMPTY) continue;
        if (conns[i].fd >= 0) hang_up(i, 1);
        conns[i].state = EMPTY;
        done++;
        if (i == opened - 1) opened--;
    }
    say("{\"command\":\"drop\",\"dropped\":%d,\"live\":%d}\n", done, live);
}

static void cmd_return(double seconds) {
    returning = 1;
    if (seconds <= 0) {
        say("{\"command\":\"return\",\"armed\":true}\n");
        return;
    }
    uint64_t began = now_ns(), until = began + (uint64_t)(seconds * 1e9), back_at = 0, attempts = 0;
    uint64_t lost_at = closed ? began : 0;
    int expected = opened, fewest = live;
    memset(first_hist, 0, sizeof first_hist);
    first_open_seq = next_seq - 1;
    while (now_ns() < until) {
        uint64_t now = now_ns();
        for (int i = 0; i < opened && inflight < 256; i++)
            if (conns[i].state == GONE && now >= conns[i].due) {
                attempts++;
                launch(i);
            }
        turn(10);
        if (live < expected && !lost_at) lost_at = now;
        if (live < fewest) fewest = live;
        if (lost_at && live == expected && fewest < expected) {
            back_at = now_ns();
            break;
        }
    }
    say("{\"command\":\"return\",\"expected\":%d,\"fewest\":%d,\"back\":%d,\"attempts\":%llu,\"seconds\":%.3f,\"first_p99_us\":%.0f}\n",
        expected, fewest, live, (unsigned long long)attempts,
        (double)((back_at ? back_at : now_ns()) - (lost_at ? lost_at : began)) / 1e9, quantile(first_hist, 0.99));
    returning = 0;
}

static void cmd_stat(void) {
    say("{\"command\":\"stat\",\"live\":%d,\"reading\":%d,\"closed\":%llu,\"resets\":%llu,\"refused\":%llu,\"server_cpu\":%.4f}\n",
        live, reading, (unsigned long long)closed, (unsigned long long)reset_count, (unsigned long long)refused,
        server_cpu());
}

static void obey(char *text) {
    double a = 0, b = 0, c = 0, d = 0;
    char word[32] = "";
    sscanf(text, "%31s %lf %lf %lf %lf", word, &a, &b, &c, &d);
    if (!strcmp(word, "open")) cmd_open((int)a, b, c > 0 ? (int)c : 256, (int)d);
    else if (!strcmp(word, "lock")) cmd_lock((int)a, (int)b, c > 0 ? (int)c : 1);
    else if (!strcmp(word, "pace")) cmd_pace(a, (int)b, c > 0 ? (int)c : 1);
    else if (!strcmp(word, "flood")) cmd_flood((int)a, b > 0 ? (int)b : 1);
    else if (!strcmp(word, "final")) cmd_final();
    else if (!strcmp(word, "hold")) cmd_hold(a);
    else if (!strcmp(word, "sleep")) cmd_sleep((int)a);
    else if (!strcmp(word, "wake")) cmd_wake((int)a);
    else if (!strcmp(word, "drop")) cmd_drop((int)a);
    else if (!strcmp(word, "return")) cmd_return(a);
    else if (!strcmp(word, "stat")) cmd_stat();
    else say("{\"error\":\"unknown command\"}\n");
    fflush(stdout);
}

static void set_up_publishing(void) {
    if (trigger_path) {
        FILE *f = fopen(template_file, "rb");
        template = malloc(16 * 1024);
        if (!f || !template) die("template");
        template_n = fread(template, 1, 16 * 1024, f);
        fclose(f);
        char *at = memmem(template, template_n, "@~", 2);
        if (!at) die("no token in the template");
        template_at = (size_t)(at - template);
        at = memmem(template, template_n, TASK_MARK, sizeof TASK_MARK - 1);
        template_task = at ? (size_t)(at - template) : template_n;
        for (int i = 0; i < pub_conns; i++) {
            pubs[i].fd = -1;
            pubs[i].next = next_seq;
        }
    } else if (trigger_port) {
        control = dial(trigger_port);
        struct epoll_event e = {.events = EPOLLIN, .data.u64 = CONTROL_TAG};
        epoll_ctl(epfd, EPOLL_CTL_ADD, control, &e);
    }
}

/* Peers have no state before the first publish. */
static void first_states(void) {
    static char request[32 * 1024], answer[4096];
    reach(&pubs[0]);
    fcntl(pubs[0].fd, F_SETFL, 0);
    for (int task = 0; task < tasks; task++) {
        size_t size = make_request(request, sizeof request, 0, task);
        ssize_t n = send(pubs[0].fd, request, size, MSG_NOSIGNAL);
        if (n != (ssize_t)size || (n = recv(pubs[0].fd, answer, sizeof answer, 0)) <= 0) die("publishing the first states");
        check_answer(answer, (size_t)n);
    }
    fcntl(pubs[0].fd, F_SETFL, O_NONBLOCK);
}

static void options(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i];
        char *value = argv[i + 1];
        if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--path")) path = value;
        else if (!strcmp(name, "--item")) item = value;
        else if (!strcmp(name, "--tasks")) tasks = atoi(value);
        else if (!strcmp(name, "--per-conn")) per_conn = atoi(value);
        else if (!strcmp(name, "--websocket")) websocket = atoi(value);
        else if (!strcmp(name, "--protocol")) protocol = value;
        else if (!strcmp(name, "--trigger-port")) trigger_port = atoi(value);
        else if (!strcmp(name, "--trigger-path")) trigger_path = value;
        else if (!strcmp(name, "--trigger-conns")) pub_conns = atoi(value);
        else if (!strcmp(name, "--template")) template_file = value;
        else if (!strcmp(name, "--trigger-header")) trigger_header = value;
        else if (!strcmp(name, "--trigger-type")) trigger_type = value;
        else if (!strcmp(name, "--stateless")) stateless = atoi(value);
        else if (!strcmp(name, "--timeout")) stall_timeout = atof(value);
        else if (!strcmp(name, "--max-seconds")) alarm((unsigned)atoi(value));
        else if (!strcmp(name, "--pids")) {
            for (char *one = strtok(value, ","); one && npids < 64; one = strtok(NULL, ",")) pids[npids++] = atoi(one);
        } else {
            fprintf(stderr, "load: unknown option %s\n", name);
            exit(2);
        }
    }
    if (tasks < 1 || per_conn < 1 || per_conn > tasks || pub_conns < 1 || pub_conns > MAX_PUBS) {
        fprintf(stderr, "load: impossible numbers\n");
        exit(2);
    }
}

int main(int argc, char **argv) {
    alarm(900); /* ends unconditionally */
    options(argc, argv);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    conns = calloc(MAX_CONNS, sizeof *conns);
    lasts = malloc((size_t)MAX_CONNS * (size_t)per_conn * sizeof *lasts);
    prev_of = calloc(MAX_SEQ, sizeof *prev_of);
    worst_us = calloc(MAX_SEQ, sizeof *worst_us);
    last_of_task = calloc((size_t)tasks, sizeof *last_of_task);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    if (!conns || !lasts || !prev_of || !worst_us || !last_of_task || epfd < 0) die("memory");
    set_up_publishing();
    if (trigger_path && !stateless) first_states();
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = STDIN_TAG};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, 0, &e)) die("standard input must be a pipe");
    while (1) {
        char *end = memchr(line, '\n', line_n);
        if (end) {
            char text[256];
            size_t n = (size_t)(end - line);
            snprintf(text, sizeof text, "%.*s", (int)(n < 255 ? n : 255), line);
            line_n -= n + 1;
            memmove(line, end + 1, line_n);
            obey(text);
            continue;
        }
        if (stdin_over) break;
        turn(1000);
    }
    struct linger hard = {.l_onoff = 1, .l_linger = 0}; /* leave no ports in TIME_WAIT for the next run */
    for (int i = 0; i < opened; i++)
        if (conns[i].fd >= 0) setsockopt(conns[i].fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    return 0;
}
