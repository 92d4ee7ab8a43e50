// Rainbow's client for Foundation, Apple's and GNUstep's. README.md begins with five lines.

#import <Rainbow/RBWClient.h>
#import <Rainbow/RBWConfiguration.h>
#import <Rainbow/RBWError.h>
#import <Rainbow/RBWMessage.h>
#import <Rainbow/RBWStorage.h>
#import <Rainbow/RBWTransport.h>
