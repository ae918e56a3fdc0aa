// Measures round trips on one connection. Usage: ping PORT COUNT SIZE [spin]
//
// It sends SIZE bytes, waits until as many have come back, and begins again. It sleeps in recv, or with "spin" calls recv
// until there is something. It prints the median and the 99th percentile of the times in nanoseconds.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int by_time(const void *a, const void *b) {
    long one = *(const long *)a, other = *(const long *)b;
    return (one > other) - (one < other);
}

int main(int count, char **arguments) {
    if (count < 4) return 2;
    int trips = atoi(arguments[2]), size = atoi(arguments[3]), on = 1;
    int flags = count > 4 && !strcmp(arguments[4], "spin") ? MSG_DONTWAIT : 0;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    char *bytes = calloc(1, size);
    long *times = calloc(trips, sizeof *times);
    if (!bytes || !times || trips < 100 || size < 1) fail("arguments");
    // The first tenth warms up.
    for (int trip = -trips / 10; trip < trips; trip++) {
        long began = now();
        if (send(fd, bytes, size, 0) != size) fail("send");
        for (int received = 0; received < size;) {
            ssize_t len = recv(fd, bytes, size - received, flags);
            if (len > 0) received += len;
            else if (len == 0 || errno != EAGAIN) fail("recv");
        }
        if (trip >= 0) times[trip] = now() - began;
    }
    qsort(times, trips, sizeof *times, by_time);
    printf("%ld %ld\n", times[trips / 2], times[trips - trips / 100 - 1]);
}
