// Stands for a node.js that is linked with musl: it says so, and what it was
// given to run.
#include <stdio.h>

int main(int argc, char **argv) {
	printf("musl");
	for (int i = 1; i < argc; i++)
		printf(" %s", argv[i]);
	printf("\n");
	return 0;
}
