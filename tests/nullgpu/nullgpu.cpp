// A GPU that is not there: what torch, Triton and inductor call of CUDA's runtime, driver, cuBLAS and cuDNN.
//
// Device memory is host memory, copies copy, and kernels do nothing but count: what a program computes means nothing,
// while all that the host does is as it would be. Handles are a few bytes each and never freed. A graph takes in what is
// launched on its stream, and what the libraries launch; to wait for that stream meanwhile is refused, as CUDA does.
//
// Built into one library by __init__.py, which is loaded before all others, and under the driver's name.

#include <driver_types.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>

enum Counter { LAUNCH, COPY_IN, COPY_OUT, SYNC, GRAPH, CAPTURED, EVENT, COUNTERS };  // __init__.py names them
static std::atomic<long> counts[COUNTERS];
static std::atomic<void*> capturing{nullptr};  // the stream, as long as a graph is recorded

#define API extern "C" __attribute__((visibility("default")))
#define DOES_NOTHING(name) API int name(...) { return 0; }
#define MAKES_A_HANDLE(name) API int name(void** made, ...) { *made = handle(); return 0; }
#define LAUNCHES(name) API int name(...) { return launch(); }

static void* handle() { return calloc(1, 512); }
static int launch(void* stream = capturing) {
  counts[stream && stream == capturing ? CAPTURED : LAUNCH]++;
  return cudaSuccess;
}
static int wait(void* stream = capturing) {
  if (stream && stream == capturing) return cudaErrorStreamCaptureUnsupported;
  counts[SYNC]++;
  return cudaSuccess;
}

API void nullgpu_counts(long* out) { for (int i = 0; i < COUNTERS; i++) out[i] = counts[i]; }

// The device: an H100 as far as anybody asks.

API int cudaGetDeviceProperties(cudaDeviceProp* found, int) {
  memset(found, 0, sizeof *found);
  strcpy(found->name, "null GPU");
  found->major = 9;
  found->multiProcessorCount = 132;
  found->totalGlobalMem = 80ull << 30;
  found->l2CacheSize = 50 << 20;
  found->warpSize = 32;
  found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
  found->maxThreadsDim[2] = 64;
  found->maxGridSize[0] = 2147483647;
  found->maxGridSize[1] = found->maxGridSize[2] = 65535;
  found->maxThreadsPerMultiProcessor = 2048;
  found->maxBlocksPerMultiProcessor = 32;
  found->sharedMemPerBlock = 48 << 10;
  found->sharedMemPerBlockOptin = 227 << 10;
  found->sharedMemPerMultiprocessor = 228 << 10;
  found->regsPerBlock = found->regsPerMultiprocessor = 65536;
  found->totalConstMem = 65536;
  found->textureAlignment = 512;
  found->unifiedAddressing = 1;
  return cudaSuccess;
}

static int attribute(int* value, int which) {  // the runtime's numbers are the driver's
  switch (which) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 228 << 10; break;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrClockRate: *value = 1980000; break;
    case cudaDevAttrMemoryClockRate: *value = 2619000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = 5120; break;
    default: *value = 1;
  }
  return 0;
}
API int cudaDeviceGetAttribute(int* value, int which, int) { return attribute(value, which); }
API int cuDeviceGetAttribute(int* value, int which, int) { return attribute(value, which); }
API int cudaGetDeviceCount(int* count) { *count = 1; return 0; }
API int cuDeviceGetCount(int* count) { *count = 1; return 0; }
API int cudaGetDevice(int* device) { *device = 0; return 0; }
API int cuDeviceGet(int* device, int) { *device = 0; return 0; }
API int cuCtxGetDevice(int* device) { *device = 0; return 0; }
API int cudaSetDevice(int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
API int cudaDriverGetVersion(int* version) { *version = 13020; return 0; }
API int cudaRuntimeGetVersion(int* version) { *version = 13020; return 0; }
API int cuDriverGetVersion(int* version) { *version = 13020; return 0; }
API int cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { *least = 0; *greatest = -5; return 0; }
API int cudaDeviceCanAccessPeer(int* can, int, int) { *can = 0; return 0; }
API int cudaDeviceGetPCIBusId(char* text, int size, int) { strncpy(text, "0000:00:00.0", size); return 0; }
API int cuCtxGetCurrent(void** context) { *context = (void*)1; return 0; }
API int cuDevicePrimaryCtxRetain(void** context, int) { *context = (void*)1; return 0; }
API int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) { *flags = 0; *active = 1; return 0; }
DOES_NOTHING(cuInit) DOES_NOTHING(cuCtxSetCurrent) DOES_NOTHING(cuCtxSetLimit)
DOES_NOTHING(cudaGetLastError) DOES_NOTHING(cudaPeekAtLastError) DOES_NOTHING(cudaProfilerStart)
DOES_NOTHING(cudaProfilerStop)
API int cuCtxGetLimit(size_t* value, int) { *value = 0; return 0; }
API int cuGetErrorString(int, const char** text) { *text = "an error of the null GPU"; return 0; }

// Memory. Fresh memory is zero, so that a program meets few numbers that are none.

static int allocate(void** made, size_t size) {
  if (posix_memalign(made, 512, size ? size : 512)) return cudaErrorMemoryAllocation;
  if (size < (64u << 20)) memset(*made, 0, size);
  return cudaSuccess;
}
static int copy(void* to, const void* from, size_t size, int kind, void* stream) {
  if (kind == cudaMemcpyDeviceToHost) counts[COPY_OUT]++;
  else if (kind == cudaMemcpyHostToDevice) counts[COPY_IN]++;
  else launch(stream);
  memmove(to, from, size);
  return cudaSuccess;
}
static int fill(void* at, int value, size_t size, void* stream) {
  memset(at, value, size);
  return launch(stream);
}
API int cudaMalloc(void** made, size_t size) { return allocate(made, size); }
API int cudaMallocAsync(void** made, size_t size, void*) { return allocate(made, size); }
API int cudaHostAlloc(void** made, size_t size, unsigned) { *made = calloc(1, size); return 0; }
API int cudaFree(void* at) { free(at); return 0; }
API int cudaFreeAsync(void* at, void*) { free(at); return 0; }
API int cudaFreeHost(void* at) { free(at); return 0; }
API int cudaMemGetInfo(size_t* unused, size_t* all) { *unused = 76ull << 30; *all = 80ull << 30; return 0; }
API int cudaMemcpy(void* to, const void* from, size_t size, int kind) {
  int refused = wait();
  return refused ? refused : copy(to, from, size, kind, nullptr);
}
API int cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void* stream) {
  return copy(to, from, size, kind, stream);
}
API int cudaMemset(void* at, int value, size_t size) { return fill(at, value, size, nullptr); }
API int cudaMemsetAsync(void* at, int value, size_t size, void* stream) { return fill(at, value, size, stream); }
API int cudaGetSymbolAddress(void** found, const void*) { *found = calloc(1, 1 << 16); return 0; }
API int cuPointerGetAttribute(unsigned long* value, int, unsigned long pointer) { *value = pointer; return 0; }
API int cudaPointerGetAttributes(cudaPointerAttributes* found, const void* pointer) {
  memset(found, 0, sizeof *found);
  found->devicePointer = (void*)pointer;
  return cudaSuccess;
}
DOES_NOTHING(cudaHostRegister) DOES_NOTHING(cudaHostUnregister) DOES_NOTHING(cudaMemcpyToSymbol)

// Streams, events, graphs. Work is done when it is queued.

struct Event { std::chrono::steady_clock::time_point at; bool is_recorded; };
static int make_event(void** made) { counts[EVENT]++; *made = new Event{}; return 0; }
static int record(void* event) { *(Event*)event = {std::chrono::steady_clock::now(), true}; return 0; }
API int cudaEventCreate(void** made) { return make_event(made); }
API int cudaEventCreateWithFlags(void** made, unsigned) { return make_event(made); }
API int cudaEventDestroy(void* event) { counts[EVENT]--; delete (Event*)event; return 0; }
API int cudaEventRecord(void* event, void*) { return record(event); }
API int cudaEventRecordWithFlags(void* event, void*, unsigned) { return record(event); }
API int cudaEventElapsedTime(float* ms, void* begin, void* end) {
  if (!((Event*)begin)->is_recorded || !((Event*)end)->is_recorded) return cudaErrorInvalidResourceHandle;
  *ms = std::chrono::duration<float, std::milli>(((Event*)end)->at - ((Event*)begin)->at).count();
  return cudaSuccess;
}
API int cudaEventSynchronize(void*) { return wait(nullptr); }
API int cudaStreamSynchronize(void* stream) { return wait(stream); }
API int cudaDeviceSynchronize() { return wait(); }
API int cudaStreamGetPriority(void*, int* priority) { *priority = 0; return 0; }
API int cudaLaunchHostFunc(void*, void (*call)(void*), void* data) { call(data); return 0; }
MAKES_A_HANDLE(cudaStreamCreate) MAKES_A_HANDLE(cudaStreamCreateWithFlags) MAKES_A_HANDLE(cudaStreamCreateWithPriority)
DOES_NOTHING(cudaStreamDestroy) DOES_NOTHING(cudaStreamQuery) DOES_NOTHING(cudaStreamWaitEvent)
DOES_NOTHING(cudaEventQuery) DOES_NOTHING(cudaThreadExchangeStreamCaptureMode)

static int status_of(void* stream) {
  return stream && stream == capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
}
static std::atomic<unsigned long long> captures;
API int cudaStreamBeginCapture(void* stream, int) { capturing = stream; captures++; return 0; }
API int cudaStreamEndCapture(void*, void** graph) { capturing = nullptr; *graph = handle(); return 0; }
API int cudaStreamIsCapturing(void* stream, int* status) { *status = status_of(stream); return 0; }
API int cuStreamIsCapturing(void* stream, int* status) { *status = status_of(stream); return 0; }
API int cudaStreamGetCaptureInfo(void* stream, int* status, unsigned long long* id, ...) {
  *status = status_of(stream);
  if (id) *id = *status ? captures.load() : 0;
  return 0;
}
API int cudaGraphGetNodes(void*, void*, size_t* count) { *count = counts[CAPTURED]; return 0; }
API int cudaGraphLaunch(void*, void*) { counts[GRAPH]++; return 0; }
MAKES_A_HANDLE(cudaGraphInstantiate) MAKES_A_HANDLE(cudaGraphInstantiateWithFlags)
DOES_NOTHING(cudaGraphDestroy) DOES_NOTHING(cudaGraphExecDestroy)

// Kernels: torch's own by the runtime, Triton's by the driver.

struct Size { unsigned x, y, z; };
static int launch_checked(Size grid, Size block, void* stream) {
  unsigned threads = block.x * block.y * block.z;
  if (!grid.x || grid.y > 65535 || grid.z > 65535 || !threads || threads > 1024) return cudaErrorInvalidConfiguration;
  return launch(stream);
}
API int cudaLaunchKernel(const void*, Size grid, Size block, void**, size_t, void* stream) {
  return launch_checked(grid, block, stream);
}
API int __cudaLaunchKernel(const void*, Size grid, Size block, void**, size_t, void* stream) {
  return launch_checked(grid, block, stream);
}
API int __cudaGetKernel(const void** kernel, const void* function) { *kernel = function; return 0; }
API int cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  memset(found, 0, sizeof *found);
  found->ptxVersion = found->binaryVersion = 90;
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 32;
  found->maxDynamicSharedSizeBytes = 48 << 10;
  return cudaSuccess;
}
API int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* count, ...) { *count = 4; return 0; }
API int cuOccupancyMaxActiveClusters(int* count, ...) { *count = 1; return 0; }
API int cuFuncGetAttribute(int* value, int which, void*) { *value = which == 0 ? 1024 : which == 4 ? 32 : 0; return 0; }
LAUNCHES(cudaLaunchKernelExC) LAUNCHES(cuLaunchKernel) LAUNCHES(cuLaunchKernelEx)
MAKES_A_HANDLE(cuModuleLoad) MAKES_A_HANDLE(cuModuleLoadData) MAKES_A_HANDLE(cuModuleLoadDataEx)
MAKES_A_HANDLE(cuLibraryLoadData) MAKES_A_HANDLE(cuModuleGetFunction)
DOES_NOTHING(cuModuleUnload) DOES_NOTHING(cuFuncSetAttribute) DOES_NOTHING(cuFuncSetCacheConfig)
DOES_NOTHING(cudaFuncSetAttribute) DOES_NOTHING(cuTensorMapEncodeTiled) DOES_NOTHING(cuTensorMapEncodeIm2col)

// cuBLAS.

API size_t cublasLtGetVersion() { return 130401; }
API int cublasGetMathMode(void*, int* mode) { *mode = 0; return 0; }
API int cublasGetPointerMode_v2(void*, int* mode) { *mode = 0; return 0; }
API int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void* found, int* count) {
  memset(found, 0, 96);  // a cublasLtMatmulHeuristicResult_t
  *count = 1;
  return 0;
}
MAKES_A_HANDLE(cublasCreate_v2) MAKES_A_HANDLE(cublasLtCreate) MAKES_A_HANDLE(cublasLtMatmulDescCreate)
MAKES_A_HANDLE(cublasLtMatmulPreferenceCreate) MAKES_A_HANDLE(cublasLtMatrixLayoutCreate)
LAUNCHES(cublasGemmEx) LAUNCHES(cublasGemmStridedBatchedEx) LAUNCHES(cublasSgemmEx) LAUNCHES(cublasSgemm_v2)
LAUNCHES(cublasDgemm_v2) LAUNCHES(cublasSgemv_v2) LAUNCHES(cublasSgemmStridedBatched)
LAUNCHES(cublasDgemmStridedBatched) LAUNCHES(cublasLtMatmul)
DOES_NOTHING(cublasDestroy_v2) DOES_NOTHING(cublasSetStream_v2) DOES_NOTHING(cublasSetWorkspace_v2)
DOES_NOTHING(cublasSetMathMode) DOES_NOTHING(cublasSetPointerMode_v2) DOES_NOTHING(cublasSetSmCountTarget)
DOES_NOTHING(cublasLtMatmulDescDestroy) DOES_NOTHING(cublasLtMatmulDescSetAttribute)
DOES_NOTHING(cublasLtMatmulPreferenceDestroy) DOES_NOTHING(cublasLtMatmulPreferenceSetAttribute)
DOES_NOTHING(cublasLtMatrixLayoutDestroy) DOES_NOTHING(cublasLtMatrixLayoutSetAttribute)
DOES_NOTHING(cublasLtMatmulAlgoCheck)

// cuDNN: that of version 7, to which torch goes back where the newer one, below, has no plan to offer.

struct Algorithm { int number, status; float ms; size_t memory; int is_deterministic, math, reserved[3]; };
static int find(int wanted, int* count, void* found) {
  for (int i = 0; i < wanted; i++) ((Algorithm*)found)[i] = {1, 0, 0.1f, 0, 1, 1, {}};
  *count = wanted;
  return 0;
}
#define FINDS(name)                                                                                          \
  API int name(void*, void*, void*, void*, void*, void*, void*, void*, int wanted, int* count, void* found,  \
               void*, size_t) {                                                                              \
    return find(wanted, count, found);                                                                       \
  }
#define SUGGESTS(name)                                                                           \
  API int name(void*, void*, void*, void*, void*, int wanted, int* count, void* found) {         \
    return find(wanted, count, found);                                                           \
  }
#define NEEDS_NO_SPACE(name, ...) API int name(__VA_ARGS__, size_t* size) { *size = 0; return 0; }
API size_t cudnnGetVersion() { return 92600; }
API size_t cudnnGetCudartVersion() { return 13020; }
API const char* cudnnGetErrorString(int) { return "an error of the null GPU"; }
API int cudnnGetStream(void*, void** stream) { *stream = nullptr; return 0; }
FINDS(cudnnFindConvolutionForwardAlgorithmEx)
FINDS(cudnnFindConvolutionBackwardDataAlgorithmEx)
FINDS(cudnnFindConvolutionBackwardFilterAlgorithmEx)
SUGGESTS(cudnnGetConvolutionForwardAlgorithm_v7)
SUGGESTS(cudnnGetConvolutionBackwardDataAlgorithm_v7)
SUGGESTS(cudnnGetConvolutionBackwardFilterAlgorithm_v7)
NEEDS_NO_SPACE(cudnnGetConvolutionForwardWorkspaceSize, void*, void*, void*, void*, void*, int)
NEEDS_NO_SPACE(cudnnGetConvolutionBackwardDataWorkspaceSize, void*, void*, void*, void*, void*, int)
NEEDS_NO_SPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize, void*, void*, void*, void*, void*, int)
NEEDS_NO_SPACE(cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize, void*, int, int, void*, void*, void*, void*,
               void*)
NEEDS_NO_SPACE(cudnnGetBatchNormalizationBackwardExWorkspaceSize, void*, int, int, void*, void*, void*, void*, void*,
               void*)
NEEDS_NO_SPACE(cudnnGetBatchNormalizationTrainingExReserveSpaceSize, void*, int, int, void*, void*)
MAKES_A_HANDLE(cudnnCreate) MAKES_A_HANDLE(cudnnCreateTensorDescriptor) MAKES_A_HANDLE(cudnnCreateFilterDescriptor)
MAKES_A_HANDLE(cudnnCreateConvolutionDescriptor) MAKES_A_HANDLE(cudnnCreateActivationDescriptor)
LAUNCHES(cudnnConvolutionForward) LAUNCHES(cudnnConvolutionBackwardData) LAUNCHES(cudnnConvolutionBackwardFilter)
LAUNCHES(cudnnBatchNormalizationForwardTrainingEx) LAUNCHES(cudnnBatchNormalizationForwardInference)
LAUNCHES(cudnnBatchNormalizationBackwardEx)
DOES_NOTHING(cudnnDestroy) DOES_NOTHING(cudnnSetStream) DOES_NOTHING(cudnnSetTensorNdDescriptor)
DOES_NOTHING(cudnnSetFilterNdDescriptor) DOES_NOTHING(cudnnSetConvolutionNdDescriptor)
DOES_NOTHING(cudnnSetConvolutionGroupCount) DOES_NOTHING(cudnnSetConvolutionMathType)
DOES_NOTHING(cudnnSetActivationDescriptor) DOES_NOTHING(cudnnDestroyTensorDescriptor)
DOES_NOTHING(cudnnDestroyFilterDescriptor) DOES_NOTHING(cudnnDestroyConvolutionDescriptor)
DOES_NOTHING(cudnnDestroyActivationDescriptor)

API int cudnnBackendGetAttribute(void*, int, int type, long wanted, long* count, void* found) {
  const int NUMBER = 3, DESCRIPTOR = 15;
  if (count) *count = type == NUMBER || type == DESCRIPTOR;
  if (!found || wanted < 1) return 0;
  if (type == NUMBER) *(long*)found = 0;
  if (type == DESCRIPTOR && !*(void**)found) *(void**)found = handle();
  return 0;
}
API int cudnnBackendCreateDescriptor(int, void** made) { *made = handle(); return 0; }
LAUNCHES(cudnnBackendExecute)
DOES_NOTHING(cudnnBackendInitialize) DOES_NOTHING(cudnnBackendFinalize) DOES_NOTHING(cudnnBackendSetAttribute)
DOES_NOTHING(cudnnBackendDestroyDescriptor)
