// Both sides of a broadcast, for benches/cluster.py.
//
// fan_out send PORT CLIENTS BYTES     accepts the clients; for each line of input, sends BYTES to each of them in a bare loop
// fan_out ping PORT SECONDS MICROS    sends a heartbeat each MICROS; prints the median, the 99th percentile and the longest time in µs
//                                     until its answer
// fan_out receive PORT CLIENTS BYTES  connects the clients; each time that all have got BYTES, prints the time in ns of CLOCK_MONOTONIC
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, BUFFER = 65536, DESCRIPTORS = 1 << 17 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct sockaddr_in loopback(const char *port) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return addr;
}

static void send_all(const char *port, int clients, size_t bytes) {
    int on = 1, *fds = calloc(clients, sizeof *fds), listener = socket(AF_INET, SOCK_STREAM, 0);
    char *data = calloc(1, bytes), line[64];
    struct sockaddr_in addr = loopback(port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&addr, sizeof addr) || listen(listener, 1024)) fail("listen");
    for (int at = 0; at < clients; at++) {
        if ((fds[at] = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) < 0) fail("accept");
        setsockopt(fds[at], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    while (fgets(line, sizeof line, stdin))
        for (int at = 0; at < clients; at++)
            if (send(fds[at], data, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) fail("send");
}

static void receive_all(const char *port, int clients, long bytes) {
    static long got[DESCRIPTORS];
    static char buffer[BUFFER];
    struct epoll_event events[EVENTS];
    struct sockaddr_in addr = loopback(port);
    struct timespec now;
    int epoll = epoll_create1(0), done = 0;
    for (int at = 0; at < clients; at++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || fd >= DESCRIPTORS || connect(fd, (struct sockaddr *)&addr, sizeof addr)) fail("connect");
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    }
    printf("connected\n");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int at = 0; at < count; at++) {
            int fd = events[at].data.fd;
            ssize_t more = recv(fd, buffer, sizeof buffer, 0);
            if (more <= 0) fail("recv");
            got[fd] += more;
            if (got[fd] > bytes) fail("more bytes than one broadcast has");
            if (got[fd] < bytes || ++done < clients) continue;
            clock_gettime(CLOCK_MONOTONIC, &now);
            printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
            fflush(stdout);
            memset(got, 0, sizeof got);
            done = 0;
        }
    }
}

static int by_size(const void *a, const void *b) {
    return *(const long *)a < *(const long *)b ? -1 : *(const long *)a > *(const long *)b;
}

static long micros(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static void ping(const char *port, int seconds, int every) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0), taken = 0, most = seconds * 1000000L / every + 1;
    long *times = calloc(most, sizeof *times), end = micros() + seconds * 1000000L;
    struct sockaddr_in addr = loopback(port);
    char answer[5];
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    while (taken < most && micros() < end) {
        long sent = micros();
        if (send(fd, "\0\0\0\1\x80", 5, MSG_NOSIGNAL) != 5) fail("send");
        if (recv(fd, answer, 5, MSG_WAITALL) != 5) fail("recv");
        times[taken++] = micros() - sent;
        usleep(every);
    }
    qsort(times, taken, sizeof *times, by_size);
    printf("%ld %ld %ld\n", times[taken / 2], times[taken * 99 / 100], times[taken - 1]);
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    if (!strcmp(arguments[1], "send")) send_all(arguments[2], atoi(arguments[3]), atol(arguments[4]));
    else if (!strcmp(arguments[1], "ping")) ping(arguments[2], atoi(arguments[3]), atoi(arguments[4]));
    else receive_all(arguments[2], atoi(arguments[3]), atol(arguments[4]));
    return 0;
}
