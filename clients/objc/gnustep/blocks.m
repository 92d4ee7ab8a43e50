// Blocks on GCC's Objective-C runtime, as clang's "Block Implementation Specification" has them. Debian's libBlocksRuntime does
// not retain the objects that a block captures; this one does. A block is no object here: use Block_copy and Block_release,
// and keep it out of collections. With GNUstep's own runtime (libobjc2) it must not be linked.

#import <Foundation/Foundation.h>

enum {
    RefcountMask = 0xffff,
    NeedsFree = 1 << 24,
    HasCopyDispose = 1 << 25,
    IsGlobal = 1 << 28,
    FieldIsObject = 3,
    FieldIsBlock = 7,
    FieldIsByref = 8,
    ByrefCaller = 128,
};

typedef struct {
    unsigned long reserved;
    unsigned long size;
    void (*copy)(void *, const void *);
    void (*dispose)(const void *);
} Descriptor;

typedef struct {
    void *isa;
    int flags;
    int reserved;
    void (*invoke)(void *, ...);
    Descriptor *descriptor;
} Block;

/// A variable that is marked __block.
typedef struct Byref {
    void *isa;
    struct Byref *forwarding;
    int flags;
    unsigned size;
    void (*keep)(struct Byref *, struct Byref *);
    void (*dispose)(struct Byref *);
} Byref;

// The compiler refers to the first two.
void *_NSConcreteStackBlock[32];
void *_NSConcreteGlobalBlock[32];
static void *mallocBlock[32];

void *_Block_copy(const void *source);
void _Block_release(const void *source);
void _Block_object_assign(void *target, const void *object, const int flags);
void _Block_object_dispose(const void *object, const int flags);

void *_Block_copy(const void *source) {
    Block *block = (Block *)source;
    if (block == NULL || block->flags & IsGlobal) return block;
    if (block->flags & NeedsFree) {
        __atomic_add_fetch(&block->flags, 1, __ATOMIC_RELAXED);
        return block;
    }
    Block *copy = malloc(block->descriptor->size);
    if (copy == NULL) abort();
    memcpy(copy, block, block->descriptor->size);
    copy->isa = mallocBlock;
    copy->flags = (copy->flags & ~RefcountMask) | NeedsFree | 1;
    if (copy->flags & HasCopyDispose) copy->descriptor->copy(copy, block);
    return copy;
}

void _Block_release(const void *source) {
    Block *block = (Block *)source;
    if (block == NULL || !(block->flags & NeedsFree)) return;
    if ((__atomic_sub_fetch(&block->flags, 1, __ATOMIC_ACQ_REL) & RefcountMask) != 0) return;
    if (block->flags & HasCopyDispose) block->descriptor->dispose(block);
    free(block);
}

static Byref *copiedByref(Byref *source) {
    Byref *there = source->forwarding;
    if (there->flags & NeedsFree) {
        __atomic_add_fetch(&there->flags, 1, __ATOMIC_RELAXED);
        return there;
    }
    Byref *copy = malloc(source->size);
    if (copy == NULL) abort();
    memcpy(copy, source, source->size);
    // One reference is the block's, the other the scope's that declares the variable.
    copy->flags = (source->flags & ~RefcountMask) | NeedsFree | 2;
    copy->forwarding = copy;
    source->forwarding = copy;
    if (copy->flags & HasCopyDispose) copy->keep(copy, source);
    return copy;
}

static void releaseByref(Byref *source) {
    Byref *there = source->forwarding;
    if (!(there->flags & NeedsFree)) return;
    if ((__atomic_sub_fetch(&there->flags, 1, __ATOMIC_ACQ_REL) & RefcountMask) != 0) return;
    if (there->flags & HasCopyDispose) there->dispose(there);
    free(there);
}

void _Block_object_assign(void *target, const void *object, const int flags) {
    const void **place = target;
    // A __block variable does not retain what it refers to.
    if (flags & ByrefCaller) *place = object;
    else if (flags & FieldIsByref) *place = copiedByref((Byref *)object);
    else if ((flags & FieldIsBlock) == FieldIsBlock) *place = _Block_copy(object);
    else if ((flags & FieldIsObject) == FieldIsObject) *place = [(id)object retain];
    else *place = object;
}

void _Block_object_dispose(const void *object, const int flags) {
    if (flags & ByrefCaller) return;
    if (flags & FieldIsByref) releaseByref((Byref *)object);
    else if ((flags & FieldIsBlock) == FieldIsBlock) _Block_release(object);
    else if ((flags & FieldIsObject) == FieldIsObject) [(id)object release];
}
