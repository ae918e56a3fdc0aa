// The load of benches/cluster.py --bare: clients that keep a number of packets outstanding.
//
// closed_loop PORT CLIENTS BYTES OUTSTANDING SECONDS   prints the number of answers and the seconds until the last one
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

enum { EVENTS = 256, BUFFER = 1 << 18, HEAD = 9, PATIENCE = 20000 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

struct client {
    int fd;
    long received;
};

int main(int count, char **words) {
    if (count != 6) return fprintf(stderr, "see the head of the source\n"), 2;
    long clients = atol(words[2]), packet = HEAD + atol(words[3]), outstanding = atol(words[4]);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char *packets = calloc(outstanding, packet), *buffer = malloc(BUFFER);
    for (long at = 0; at < outstanding; at++) {
        char *to = packets + at * packet;
        *(unsigned *)to = htonl(packet - 4);
        *(short *)(to + 5) = htons(1);
        *(short *)(to + 7) = htons(at + 1);
    }
    struct client *all = calloc(clients, sizeof *all);
    struct epoll_event events[EVENTS];
    int poll = epoll_create1(0), on = 1;
    for (long at = 0; at < clients; at++) {
        if ((all[at].fd = socket(AF_INET, SOCK_STREAM, 0)) < 0) fail("socket");
        if (connect(all[at].fd, (struct sockaddr *)&addr, sizeof addr)) fail("connect");
        setsockopt(all[at].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[at]};
        epoll_ctl(poll, EPOLL_CTL_ADD, all[at].fd, &event);
    }
    for (long at = 0; at < clients; at++)
        if (send(all[at].fd, packets, outstanding * packet, 0) != outstanding * packet) fail("send");
    double began = now(), end = began + atof(words[5]);
    long answers = 0, awaited = clients * outstanding;
    while (awaited > 0) {
        int ready = epoll_wait(poll, events, EVENTS, PATIENCE);
        if (ready < 0) fail("epoll_wait");
        if (ready == 0) return fprintf(stderr, "%ld answers do not come\n", awaited), 1;
        int is_over = now() >= end;
        for (int at = 0; at < ready; at++) {
            struct client *client = events[at].data.ptr;
            long bytes = recv(client->fd, buffer, BUFFER, MSG_DONTWAIT);
            if (bytes < 0 && errno == EAGAIN) continue;
            if (bytes <= 0) fail("recv");
            long before = client->received / packet, after = (client->received += bytes) / packet;
            answers += after - before;
            awaited -= after - before;
            if (is_over || after == before) continue;
            long next = (after - before) * packet;
            if (send(client->fd, packets, next, 0) != next) fail("send");
            awaited += after - before;
        }
    }
    printf("%ld %f\n", answers, now() - began);
    return 0;
}
