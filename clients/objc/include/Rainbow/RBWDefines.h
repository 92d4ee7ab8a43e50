// What Foundation's headers of Apple define and GNUstep's may lack. Every public header includes it. It must not declare
// anything that an application uses.

#import <Foundation/Foundation.h>

// Said by hand where clang checks what Apple's compiler will see.
#if defined(__APPLE__) && !defined(RBW_APPLE)
#define RBW_APPLE 1
#endif

#ifndef NS_SWIFT_NAME
#define NS_SWIFT_NAME(name)
#endif

#ifndef NS_SWIFT_ASYNC_NAME
#define NS_SWIFT_ASYNC_NAME(name)
#endif

#ifndef NS_ERROR_ENUM
#define NS_ERROR_ENUM(domain, name) NS_ENUM(NSInteger, name)
#endif

// GNUstep defines NS_UNAVAILABLE as nothing.
#define RBW_UNAVAILABLE __attribute__((unavailable))

#ifdef __cplusplus
#define RBW_EXTERN extern "C"
#else
#define RBW_EXTERN extern
#endif

// GNUstep on GCC's runtime has no weak references: whoever is referred to takes the reference back before it goes.
#if __has_feature(objc_arc) || RBW_APPLE
#define RBW_WEAK weak
#define RBW_WEAK_IVAR __weak
#else
#define RBW_WEAK assign
#define RBW_WEAK_IVAR
#endif
