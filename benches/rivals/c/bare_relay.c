// Joins each two clients that connect, and passes all that one sends on to the other, on epoll: it receives into one buffer
// and sends from there. While a client has no room, it waits for that one alone. Usage: bare_relay PORT
#include "loop.h"
#include <poll.h>

static int *others; // By descriptor. 0 for a client that is alone.
static int alone;

static void join(int fd) {
    others[fd] = alone;
    others[alone] = fd;
    alone = alone ? 0 : fd;
}

static void end(int fd) {
    if (fd == alone) alone = 0;
    if (others[fd]) close(others[fd]);
    close(fd);
}

static void pass_on(int fd, const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t sent = send(others[fd], bytes, len, 0);
        if (sent < 0 && errno != EAGAIN) return end(fd);
        if (sent < 0) {
            struct pollfd room = {.fd = others[fd], .events = POLLOUT};
            poll(&room, 1, -1);
            continue;
        }
        bytes += sent;
        len -= sent;
    }
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    struct epoll_event events[EVENTS];
    char *buffer = malloc(BUFFER);
    others = calloc(DESCRIPTORS, sizeof *others);
    if (!buffer || !others) fail("malloc");
    listen_on(arguments[1]);
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(join);
                continue;
            }
            ssize_t len = recv(fd, buffer, BUFFER, 0);
            if (len > 0) pass_on(fd, buffer, len);
            else if (len == 0 || errno != EAGAIN) end(fd);
        }
    }
}
