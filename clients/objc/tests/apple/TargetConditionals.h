// Apple's header of this name, for an iPhone.

#define TARGET_OS_IPHONE 1
#define TARGET_OS_TV 0
#define TARGET_OS_WATCH 0
