// Runs one recorded launch, with every array in memory of its own: the program of the sanitizers.
#pragma once
#include "host.h"

typedef int Serve(const host::Launch*, const host::Argument*, int64_t, char*, int64_t);

inline int replay(Serve* serve, const char* path) {
    FILE* file = fopen(path, "rb");
    if (!file) return 5;
    const auto read = [&](void* to, size_t n) {
        if (fread(to, 1, n, file) != n) _Exit(5);
    };
    host::Launch launch;
    int64_t n;
    read(&launch, sizeof launch);
    read(&n, sizeof n);
    std::vector<host::Argument> arguments(n);
    for (auto& a : arguments) {
        read(&a.length, 3 * sizeof(int64_t));
        const size_t bytes = (a.length < 0 ? 1 : a.length) * a.size;
        a.data = malloc(bytes ? bytes : 1);
        read(a.data, bytes);
    }
    fclose(file);
    char message[1000];
    const int result = serve(&launch, arguments.data(), n, message, sizeof message);
    if (result) fprintf(stderr, "fault: %s\n", message);
    for (auto& a : arguments) free(a.data);
    return result ? 3 : 0;
}
