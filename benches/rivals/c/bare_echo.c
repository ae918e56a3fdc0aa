// A minimal TCP echo on epoll. Usage: bare_echo PORT [two-phase|spin]
//
// It answers each read at once. In two phases, it first reads from all connections that epoll_wait has returned, then
// answers all of them. With "spin" it never sleeps in epoll_wait.
#include "loop.h"

// The rest of an answer, which the kernel has not accepted.
struct rest {
    char *bytes;
    size_t begin, end;
};

static struct rest *rests; // By descriptor.

static void end(int fd) {
    free(rests[fd].bytes);
    rests[fd] = (struct rest){0};
    close(fd);
}

static void answer(int fd, const char *bytes, size_t len) {
    ssize_t sent = write(fd, bytes, len);
    if (sent == (ssize_t)len) return;
    if (sent < 0 && errno != EAGAIN) return end(fd);
    if (sent < 0) sent = 0;
    struct rest *rest = &rests[fd];
    if (!rest->bytes && !(rest->bytes = malloc(BUFFER))) fail("malloc");
    memcpy(rest->bytes, bytes + sent, len - sent);
    rest->begin = 0;
    rest->end = len - sent;
    watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
}

static void answer_rest(int fd) {
    struct rest *rest = &rests[fd];
    ssize_t sent = write(fd, rest->bytes + rest->begin, rest->end - rest->begin);
    if (sent < 0) {
        if (errno != EAGAIN) end(fd);
        return;
    }
    rest->begin += sent;
    if (rest->begin == rest->end) {
        rest->begin = rest->end = 0;
        watch(EPOLL_CTL_MOD, fd, EPOLLIN);
    }
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    int two_phase = count > 2 && !strcmp(arguments[2], "two-phase");
    int timeout = count > 2 && !strcmp(arguments[2], "spin") ? 0 : -1;
    struct epoll_event events[EVENTS];
    // In two phases, reads fill one part after the other. It answers early if there is no room for another read.
    size_t room = two_phase ? 16 * BUFFER : BUFFER;
    char *buffer = malloc(room);
    rests = calloc(DESCRIPTORS, sizeof *rests);
    if (!buffer || !rests) fail("malloc");
    struct { int fd; size_t at, len; } reads[EVENTS];
    listen_on(arguments[1]);
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, timeout), filled = 0;
        size_t at = 0;
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(NULL);
                continue;
            }
            if (rests[fd].end) {
                answer_rest(fd);
                continue;
            }
            ssize_t len = read(fd, buffer + at, BUFFER);
            if (len <= 0) {
                if (len == 0 || errno != EAGAIN) end(fd);
                continue;
            }
            if (!two_phase) {
                answer(fd, buffer, len);
                continue;
            }
            reads[filled].fd = fd;
            reads[filled].at = at;
            reads[filled++].len = len;
            at += len;
            if (at + BUFFER > room) {
                for (int k = 0; k < filled; k++) answer(reads[k].fd, buffer + reads[k].at, reads[k].len);
                filled = 0;
                at = 0;
            }
        }
        for (int k = 0; k < filled; k++) answer(reads[k].fd, buffer + reads[k].at, reads[k].len);
    }
}
