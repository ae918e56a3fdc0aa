// The least that a gate and a node can cost on this machine: they pass bytes on, and look at none of them.
//
// bare gate PORT NODE_PORT   a number of clients, and one connection to the node
// bare node PORT             sends back what comes from one gate
//
// The gate sends the bytes of a client to the node behind 4 bytes with the client's number and 4 with their length. The node sends them
// back like that. Nearly all of their time is the kernel's. A client that does not read stops all others.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024, CLIENTS = 1 << 16, FROM_CLIENT = 1 << 16, FROM_LINK = 1 << 18, HEAD = 8, OUTPUT = 1 << 28 };
// The events that are not of a client.
enum { LINK = 1 << 30, LISTENER };

static int clients[CLIENTS], poll, peer = -1;
static char output[OUTPUT], input[FROM_LINK + HEAD];
static size_t queued, sent, partial;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void full(void) {
    fprintf(stderr, "the link does not take so much\n");
    exit(1);
}

static struct sockaddr_in loopback(const char *port) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return addr;
}

static void await(int fd, unsigned what) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = what};
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

// Sends all to a client, which reads all that it has asked for.
static void send_all(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t now = send(fd, bytes, len, MSG_NOSIGNAL);
        // A client that has gone needs nothing more.
        if (now < 0) return;
        bytes += now, len -= now;
    }
}

// Sends what the other server has room for: if both waited for each other, neither would read.
static void flush(void) {
    while (sent < queued) {
        ssize_t now = send(peer, output + sent, queued - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (now < 0) break;
        sent += now;
    }
    if (sent >= queued - sent) {
        memmove(output, output + sent, queued - sent);
        queued -= sent, sent = 0;
    }
}

static void from_client(unsigned client) {
    if (queued + HEAD + FROM_CLIENT > OUTPUT) full();
    ssize_t len = recv(clients[client], output + queued + HEAD, FROM_CLIENT, 0);
    if (len <= 0) {
        close(clients[client]);
        return;
    }
    unsigned head[] = {client, len};
    memcpy(output + queued, head, HEAD);
    queued += HEAD + len;
}

static void from_node(void) {
    static unsigned client, left;
    ssize_t len = recv(peer, input + partial, FROM_LINK, 0);
    if (len <= 0) exit(0);
    char *at = input, *end = input + partial + len;
    while (at < end) {
        if (left == 0) {
            if (end - at < HEAD) break;
            memcpy(&client, at, 4);
            memcpy(&left, at + 4, 4);
            at += HEAD;
        }
        size_t now = end - at < left ? end - at : left;
        send_all(clients[client], at, now);
        at += now, left -= now;
    }
    partial = end - at;
    memmove(input, at, partial);
}

static void from_gate(void) {
    if (queued + FROM_LINK > OUTPUT) full();
    ssize_t len = recv(peer, output + queued, FROM_LINK, 0);
    if (len <= 0) exit(0);
    queued += len;
}

int main(int count, char **words) {
    int is_gate = count == 4 && !strcmp(words[1], "gate");
    if (!is_gate && !(count == 3 && !strcmp(words[1], "node"))) return fprintf(stderr, "see the head of the source\n"), 2;
    poll = epoll_create1(0);
    struct sockaddr_in addr = loopback(words[2]);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&addr, sizeof addr) || listen(listener, 4096)) fail("listen");
    await(listener, LISTENER);
    if (is_gate) {
        addr = loopback(words[3]);
        peer = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(peer, (struct sockaddr *)&addr, sizeof addr)) fail("connect");
        await(peer, LINK);
    }
    struct epoll_event events[EVENTS];
    unsigned known = 0;
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, queued ? 1 : -1);
        for (int at = 0; at < ready; at++) {
            unsigned what = events[at].data.u32;
            if (what == LISTENER) {
                int fd = accept(listener, 0, 0);
                if (fd < 0 || known == CLIENTS) fail("accept");
                if (is_gate) clients[known] = fd;
                else peer = fd;
                await(fd, is_gate ? known++ : LINK);
            } else if (what != LINK) {
                from_client(what);
            } else if (is_gate) {
                from_node();
            } else {
                from_gate();
            }
        }
        flush();
    }
}
