// The sources are written for ARC, and compile without it: Debian's GNUstep runs on GCC's runtime, for which clang has no ARC.
// Without it, an object that `alloc`, `copy` or `new` made is owned, and these macros say the rest.

#import <Rainbow/RBWDefines.h>

#if __has_feature(objc_arc)

#define RBW_RETAIN(object) (object)
#define RBW_AUTORELEASE(object) (object)
#define RBW_RELEASE(ivar) ((void)0)
#define RBW_SUPER_DEALLOC ((void)0)
/// For the rest of a method that may let go of the last reference to the object.
#define RBW_KEEP(object) __attribute__((objc_precise_lifetime, unused)) id kept = (object)
#define RBW_KEEP_TOO(object) __attribute__((objc_precise_lifetime, unused)) id keptToo = (object)
/// A block that outlives the call that brought it.
#define RBW_SET_BLOCK(ivar, block) ((ivar) = [(block) copy])

#else

#import <Block.h>

#define RBW_RETAIN(object) [(object) retain]
#define RBW_AUTORELEASE(object) [(object) autorelease]
#define RBW_RELEASE(ivar) [(ivar) release]
#define RBW_SUPER_DEALLOC [super dealloc]
#define RBW_KEEP(object) (void)[[(object) retain] autorelease]
#define RBW_KEEP_TOO(object) RBW_KEEP(object)
// GCC's runtime does not know blocks as objects, so they are copied and released as what they are.
#define RBW_SET_BLOCK(ivar, block)            \
    do {                                      \
        __typeof__(ivar) earlier = (ivar);    \
        (ivar) = Block_copy(block);           \
        if (earlier) Block_release(earlier);  \
    } while (0)

#endif
