/* A stand-in for NVIDIA's management library: FAKE_NVML_GPUS GPUs, of which FAKE_NVML_LOST has fallen off the bus and
 * FAKE_NVML_MIG is split.
 * The file FAKE_NVML_USE, if there is one, holds the utilisation of all of them, or `none` when they report none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, GPU_IS_LOST = 15 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilisation;
typedef struct { int index; } *Device;

static struct { int index; } gpus[64];

static int number(const char *variable, int otherwise) {
    const char *value = getenv(variable);
    return value && *value ? atoi(value) : otherwise;
}

static int count(void) { return number("FAKE_NVML_GPUS", 0); }

static void name_gpu(int index, char *uuid) { sprintf(uuid, "GPU-%08x-0000-4000-8000-000000000000", 0xa0 + index); }

static int open_gpu(int index, Device *device) {
    if (index < 0 || index >= count() || index >= 64) return INVALID_ARGUMENT;
    if (index == number("FAKE_NVML_LOST", -1)) return GPU_IS_LOST;
    gpus[index].index = index;
    *device = (Device)&gpus[index];
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int error) { return error == GPU_IS_LOST ? "GPU is lost" : "fake error"; }

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    const char *said = getenv("FAKE_NVML_DRIVER");
    snprintf(version, length, "%s", said && *said ? said : "550.00");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned int *answer) { *answer = count(); return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device *device) { return open_gpu(index, device); }

int nvmlDeviceGetHandleByUUID(const char *wanted, Device *device) {
    char uuid[80];
    for (int index = 0; index < count(); index++) {
        name_gpu(index, uuid);
        if (!strcmp(uuid, wanted)) return open_gpu(index, device);
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device device, char *uuid, unsigned int length) {
    if (length < 41) return INVALID_ARGUMENT;
    name_gpu(device->index, uuid);
    return SUCCESS;
}

int nvmlDeviceGetName(Device device, char *name, unsigned int length) {
    snprintf(name, length, "Fake GPU %d", device->index);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Device device, unsigned int *current, unsigned int *pending) {
    *current = *pending = device->index == number("FAKE_NVML_MIG", -1);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
    memory->total = 80ULL << 30;
    memory->used = (unsigned long long)(device->index + 1) << 30;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device device, Utilisation *utilisation) {
    const char *path = getenv("FAKE_NVML_USE");
    FILE *file = path && *path ? fopen(path, "r") : NULL;
    int found = 1;
    utilisation->gpu = 10 * (device->index + 1);
    utilisation->memory = 1;
    if (file) {
        found = fscanf(file, "%u", &utilisation->gpu);
        fclose(file);
    }
    return found == 1 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetTemperature(Device device, int sensor, unsigned int *celsius) {
    (void)sensor;
    *celsius = 40 + device->index;
    return SUCCESS;
}
