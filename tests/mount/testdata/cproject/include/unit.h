#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFINE_UNIT(n)                                                                                             \
	int unit##n(const int *table);                                                                             \
	int unit##n(const int *table) { return table[n]; }
